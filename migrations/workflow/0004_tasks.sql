-- What tasks need: secrets that calls send on, leases of claimed tasks, and what is prepared for people who decide.

create table workflow.secrets (
    tenant_id  uuid        not null,
    name       text        not null check (name ~ '^[a-z][a-z0-9_-]{0,62}$'),
    -- AES-256-GCM under the master key, bound to the tenant and the name.
    sealed     bytea       not null check (length(sealed) <= 8300),
    hosts      text[]      not null default '{}' check (cardinality(hosts) <= 20),
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    primary key (tenant_id, name)
);
alter table workflow.secrets enable row level security;
alter table workflow.secrets force row level security;
create policy tenant on workflow.secrets to tenon_workflow
    using (tenant_id = (select nullif(current_setting('app.tenant_id', true), '')::uuid));
grant select, insert, update, delete on workflow.secrets to tenon_workflow;

alter table workflow.tasks
    -- How often it was claimed.
    add column attempts    integer not null default 0,
    -- Until when a claim lasts; after that the task is another worker's.
    add column lease_until timestamptz,
    -- Approvals: when their Arguments were read, and what they say.
    add column prepared_at timestamptz,
    add column notified_at timestamptz,
    add column notify_after timestamptz,
    add column notify_tries smallint not null default 0,
    add column expires_at  timestamptz;
create index tasks_leases on workflow.tasks (lease_until) where state = 'CLAIMED';
create index tasks_asked on workflow.tasks (tenant_id, run_id, token) where kind = 'approval';
create index tasks_unprepared on workflow.tasks (created_at) where kind = 'approval' and prepared_at is null;
create index tasks_unnotified on workflow.tasks (notify_after) where notify_after is not null;
create index tasks_expiring on workflow.tasks (expires_at) where expires_at is not null;
