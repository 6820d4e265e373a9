-- The run that a delivery started, when it started one alone: a start that is tried again finds its own delivery.

alter table workflow.hook_deliveries add column run_id uuid;

grant insert, update on workflow.hook_deliveries to tenon_workflow_system;
