CREATE TABLE `alert_pushes` (
	`target` text NOT NULL,
	`alert_id` integer NOT NULL,
	`told` text NOT NULL,
	`told_at` integer NOT NULL,
	`failures` integer DEFAULT 0 NOT NULL,
	`next_at` integer DEFAULT 0 NOT NULL,
	`result` text,
	PRIMARY KEY(`target`, `alert_id`)
);
--> statement-breakpoint
CREATE TABLE `alert_targets` (
	`name` text PRIMARY KEY NOT NULL,
	`since` integer NOT NULL,
	`failures` integer DEFAULT 0 NOT NULL,
	`due_at` integer NOT NULL,
	`version` integer DEFAULT 0 NOT NULL
);
--> statement-breakpoint
CREATE TABLE `watch_state` (
	`name` text PRIMARY KEY NOT NULL,
	`due_at` integer NOT NULL,
	`value` text NOT NULL
);
--> statement-breakpoint
CREATE INDEX `alerts_cleared` ON `alerts` (`cleared_at`) WHERE cleared_at IS NOT NULL;