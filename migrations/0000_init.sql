CREATE TABLE `alerts` (
	`id` integer PRIMARY KEY NOT NULL,
	`kind` text NOT NULL,
	`key` text NOT NULL,
	`severity` text NOT NULL,
	`detail` text NOT NULL,
	`link` text NOT NULL,
	`opened_at` integer NOT NULL,
	`cleared_at` integer
);
--> statement-breakpoint
CREATE UNIQUE INDEX `alerts_open` ON `alerts` (`kind`,`key`) WHERE cleared_at IS NULL;--> statement-breakpoint
CREATE TABLE `anchors` (
	`id` integer PRIMARY KEY NOT NULL,
	`root` text NOT NULL,
	`tree_size` integer NOT NULL,
	`chain` text NOT NULL,
	`network` text NOT NULL,
	`method` text NOT NULL,
	`state` text NOT NULL,
	`failures` integer DEFAULT 0 NOT NULL,
	`attempts` integer DEFAULT 0 NOT NULL,
	`next_at` integer NOT NULL,
	`lease_until` integer DEFAULT 0 NOT NULL,
	`version` integer DEFAULT 0 NOT NULL,
	`work` text,
	`reason` text,
	`provider` text,
	`delay_ms` integer DEFAULT 0 NOT NULL,
	`created_at` integer NOT NULL,
	`updated_at` integer NOT NULL
);
--> statement-breakpoint
CREATE UNIQUE INDEX `anchors_job` ON `anchors` (`root`,`chain`,`network`,`method`);--> statement-breakpoint
CREATE INDEX `anchors_due` ON `anchors` (`next_at`) WHERE state NOT IN ('final', 'failed');--> statement-breakpoint
CREATE TABLE `batches` (
	`height` integer PRIMARY KEY NOT NULL,
	`first_index` integer NOT NULL,
	`count` integer NOT NULL,
	`tree_size` integer NOT NULL,
	`root` text NOT NULL,
	`sealed_at` integer NOT NULL,
	`manifest` text NOT NULL,
	`checkpoint` text NOT NULL,
	`parts` integer NOT NULL,
	`committed` integer DEFAULT 0 NOT NULL
);
--> statement-breakpoint
CREATE TABLE `dead_letters` (
	`id` text PRIMARY KEY NOT NULL,
	`queue` text NOT NULL,
	`body` text NOT NULL,
	`received_at` integer NOT NULL,
	`replayed_at` integer
);
--> statement-breakpoint
CREATE TABLE `events` (
	`leaf_index` integer PRIMARY KEY NOT NULL,
	`hash_key` integer NOT NULL,
	`event_hash` blob NOT NULL,
	`event_id` text NOT NULL,
	`source_id` integer NOT NULL,
	`type_id` integer NOT NULL,
	`subject` text,
	`time_at` integer NOT NULL,
	`height` integer NOT NULL,
	`part` integer NOT NULL,
	`offset` integer NOT NULL,
	`length` integer NOT NULL
);
--> statement-breakpoint
CREATE INDEX `events_hash` ON `events` (`hash_key`);--> statement-breakpoint
CREATE INDEX `events_time` ON `events` (`time_at`);--> statement-breakpoint
CREATE INDEX `events_source` ON `events` (`source_id`,`time_at`);--> statement-breakpoint
CREATE INDEX `events_type` ON `events` (`type_id`,`time_at`);--> statement-breakpoint
CREATE INDEX `events_subject` ON `events` (`subject`,`time_at`) WHERE subject IS NOT NULL;--> statement-breakpoint
CREATE TABLE `names` (
	`id` integer PRIMARY KEY NOT NULL,
	`kind` text NOT NULL,
	`name` text NOT NULL
);
--> statement-breakpoint
CREATE UNIQUE INDEX `names_kind_name` ON `names` (`kind`,`name`);--> statement-breakpoint
CREATE TABLE `rails` (
	`chain` text NOT NULL,
	`network` text NOT NULL,
	`method` text NOT NULL,
	PRIMARY KEY(`chain`, `network`, `method`)
);
--> statement-breakpoint
CREATE TABLE `receipts` (
	`id` integer PRIMARY KEY NOT NULL,
	`root` text NOT NULL,
	`tree_size` integer NOT NULL,
	`chain` text NOT NULL,
	`network` text NOT NULL,
	`method` text NOT NULL,
	`tx_hash` text NOT NULL,
	`anchor_at` integer NOT NULL,
	`json` text NOT NULL
);
--> statement-breakpoint
CREATE UNIQUE INDEX `receipts_job` ON `receipts` (`root`,`chain`,`network`,`method`);--> statement-breakpoint
CREATE INDEX `receipts_cover` ON `receipts` (`chain`,`network`,`method`,`tree_size`);--> statement-breakpoint
CREATE INDEX `receipts_tx` ON `receipts` (`tx_hash`);