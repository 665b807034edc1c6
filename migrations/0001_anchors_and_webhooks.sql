CREATE TABLE `anchor_attempts` (
	`id` integer PRIMARY KEY NOT NULL,
	`anchor_id` integer NOT NULL,
	`attempt` integer NOT NULL,
	`at` integer NOT NULL,
	`outcome` text NOT NULL,
	`failures` integer NOT NULL,
	`delay_ms` integer NOT NULL,
	`next_at` integer NOT NULL,
	`provider` text,
	`reason` text
);
--> statement-breakpoint
CREATE INDEX `anchor_attempts_job` ON `anchor_attempts` (`anchor_id`,`id`);--> statement-breakpoint
CREATE TABLE `providers` (
	`chain` text NOT NULL,
	`network` text NOT NULL,
	`name` text NOT NULL,
	`success` real NOT NULL,
	`latency_ms` real NOT NULL,
	`calls` integer NOT NULL,
	`failures` integer NOT NULL,
	`open_until` integer NOT NULL,
	`last_error` text,
	`updated_at` integer NOT NULL,
	PRIMARY KEY(`chain`, `network`, `name`)
);
--> statement-breakpoint
CREATE TABLE `receipt_checks` (
	`receipt_id` integer PRIMARY KEY NOT NULL,
	`due_at` integer NOT NULL
);
--> statement-breakpoint
CREATE INDEX `receipt_checks_due` ON `receipt_checks` (`due_at`);--> statement-breakpoint
CREATE TABLE `revocations` (
	`receipt_id` integer PRIMARY KEY NOT NULL,
	`json` text NOT NULL,
	`at` integer NOT NULL
);
--> statement-breakpoint
CREATE TABLE `webhook_cursors` (
	`name` text PRIMARY KEY NOT NULL,
	`at` integer NOT NULL
);
--> statement-breakpoint
CREATE TABLE `webhook_deliveries` (
	`id` integer PRIMARY KEY AUTOINCREMENT NOT NULL,
	`hook_id` integer NOT NULL,
	`lane_id` integer NOT NULL,
	`leaf_index` integer NOT NULL,
	`type` integer NOT NULL,
	`rail` text NOT NULL,
	`receipt_id` integer NOT NULL,
	`state` text DEFAULT 'pending' NOT NULL,
	`failures` integer DEFAULT 0 NOT NULL,
	`next_at` integer NOT NULL,
	`result` text,
	`created_at` integer NOT NULL,
	`updated_at` integer NOT NULL
);
--> statement-breakpoint
CREATE UNIQUE INDEX `webhook_deliveries_once` ON `webhook_deliveries` (`hook_id`,`leaf_index`,`type`,`rail`);--> statement-breakpoint
CREATE INDEX `webhook_deliveries_due` ON `webhook_deliveries` (`lane_id`,`next_at`) WHERE state = 'pending';--> statement-breakpoint
CREATE INDEX `webhook_deliveries_age` ON `webhook_deliveries` (`updated_at`) WHERE state <> 'pending';--> statement-breakpoint
CREATE TABLE `webhook_lanes` (
	`id` integer PRIMARY KEY NOT NULL,
	`did` text NOT NULL,
	`host` text NOT NULL,
	`failures` integer DEFAULT 0 NOT NULL,
	`proven` integer DEFAULT 0 NOT NULL,
	`due_at` integer,
	`version` integer DEFAULT 0 NOT NULL
);
--> statement-breakpoint
CREATE UNIQUE INDEX `webhook_lanes_target` ON `webhook_lanes` (`did`,`host`);--> statement-breakpoint
CREATE INDEX `webhook_lanes_due` ON `webhook_lanes` (`proven`,`due_at`) WHERE due_at IS NOT NULL;--> statement-breakpoint
CREATE TABLE `webhook_requests` (
	`key` text PRIMARY KEY NOT NULL,
	`hook` text NOT NULL,
	`expires_at` integer NOT NULL
);
--> statement-breakpoint
CREATE INDEX `webhook_requests_age` ON `webhook_requests` (`expires_at`);--> statement-breakpoint
CREATE TABLE `webhooks` (
	`id` integer PRIMARY KEY AUTOINCREMENT NOT NULL,
	`name` text NOT NULL,
	`did` text,
	`event_hash` blob,
	`hash_key` integer,
	`lane_id` integer NOT NULL,
	`url` text NOT NULL,
	`types` integer NOT NULL,
	`since_leaf` integer NOT NULL,
	`created_at` integer NOT NULL,
	`ended_at` integer
);
--> statement-breakpoint
CREATE UNIQUE INDEX `webhooks_name` ON `webhooks` (`name`);--> statement-breakpoint
CREATE UNIQUE INDEX `webhooks_did` ON `webhooks` (`did`,`url`) WHERE did IS NOT NULL AND ended_at IS NULL;--> statement-breakpoint
CREATE UNIQUE INDEX `webhooks_event` ON `webhooks` (`event_hash`,`url`) WHERE event_hash IS NOT NULL AND ended_at IS NULL;--> statement-breakpoint
CREATE INDEX `webhooks_live` ON `webhooks` (`id`) WHERE ended_at IS NULL;--> statement-breakpoint
CREATE INDEX `webhooks_posts` ON `webhooks` (`created_at`) WHERE event_hash IS NOT NULL AND ended_at IS NULL;--> statement-breakpoint
CREATE INDEX `webhooks_ended` ON `webhooks` (`ended_at`) WHERE ended_at IS NOT NULL;--> statement-breakpoint
DROP INDEX `receipts_job`;--> statement-breakpoint
ALTER TABLE `receipts` ADD `revision` integer DEFAULT 0 NOT NULL;--> statement-breakpoint
CREATE UNIQUE INDEX `receipts_job` ON `receipts` (`root`,`chain`,`network`,`method`,`revision`);--> statement-breakpoint
ALTER TABLE `anchors` ADD `inclusion` text;--> statement-breakpoint
ALTER TABLE `anchors` ADD `released` integer DEFAULT 0 NOT NULL;