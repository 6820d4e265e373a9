-- Large values of runs: each is kept once a run, and snapshots and histories refer to it by the hash of its text. What a step
-- does not change it does not write again. Rows go with their run.
create table workflow.payloads (
    tenant_id uuid  not null,
    run_id    uuid  not null,
    -- SHA-256 of the value as it is written here.
    digest    bytea not null check (length(digest) = 32),
    -- May refer to others.
    value     json  not null,
    primary key (tenant_id, run_id, digest)
);

alter table workflow.payloads enable row level security;
alter table workflow.payloads force row level security;
create policy tenant on workflow.payloads to tenon_workflow
    using (tenant_id = (select nullif(current_setting('app.tenant_id', true), '')::uuid));
create policy system on workflow.payloads to tenon_workflow_system using (true);
grant select on workflow.payloads to tenon_workflow;
grant select, insert, delete on workflow.payloads to tenon_workflow_system;
