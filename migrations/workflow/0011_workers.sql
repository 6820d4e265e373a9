-- Which queues have workers, by the process that they are connected to: it renews the lease while they are.
create table workflow.workers (
    tenant_id   uuid        not null,
    queue       text        not null,
    process     uuid        not null,
    lease_until timestamptz not null,
    primary key (tenant_id, queue, process)
);

alter table workflow.workers enable row level security;
alter table workflow.workers force row level security;
create policy tenant on workflow.workers to tenon_workflow
    using (tenant_id = (select nullif(current_setting('app.tenant_id', true), '')::uuid));
create policy system on workflow.workers to tenon_workflow_system using (true);
grant select on workflow.workers to tenon_workflow;
grant select, insert, update, delete on workflow.workers to tenon_workflow_system;
