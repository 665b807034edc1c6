CREATE TABLE `erasures` (
	`id` integer PRIMARY KEY NOT NULL,
	`target` blob NOT NULL,
	`event` text NOT NULL,
	`state` text DEFAULT 'due' NOT NULL,
	`step` integer DEFAULT 0 NOT NULL,
	`target_leaf` integer,
	`names` text,
	`why` text,
	`failures` integer DEFAULT 0 NOT NULL,
	`next_at` integer DEFAULT 0 NOT NULL,
	`done_at` integer
);
--> statement-breakpoint
CREATE INDEX `erasures_due` ON `erasures` (`next_at`) WHERE state = 'due';--> statement-breakpoint
CREATE INDEX `erasures_target` ON `erasures` (`target`);--> statement-breakpoint
CREATE INDEX `erasures_leaf` ON `erasures` (`target_leaf`) WHERE target_leaf IS NOT NULL;