-- What the chassis keeps for every service: the outbox, what consumers have seen, and answers to repeated requests.
-- A shared schema, because the outbox is also the bus: services write their own rows and read through the relay roles.
create schema if not exists mesh;
grant usage on schema mesh to tenon_auth, tenon_tenant, tenon_billing, tenon_workflow,
    tenon_auth_system, tenon_tenant_system, tenon_billing_system, tenon_workflow_system;

-- CloudEvents 1.0 fields. Order is (xid, seq): seq alone may show a later commit first.
create table mesh.outbox (
    tenant_id   uuid        not null,
    seq         bigint      generated always as identity,
    xid         bigint      not null default (pg_current_xact_id()::text::bigint),
    id          uuid        not null,
    type        text        not null,
    source      text        not null,
    subject     text        not null,
    data        jsonb       not null,
    traceparent text,
    time        timestamptz not null default now(),
    primary key (tenant_id, seq)
);
create index outbox_order on mesh.outbox (xid, seq);

-- Where each consumer of the outbox has come to; no tenant's data.
create table mesh.cursors (
    consumer text   primary key,
    xid      bigint not null default 0,
    seq      bigint not null default 0
);

create table mesh.inbox (
    tenant_id uuid        not null,
    consumer  text        not null,
    event_id  uuid        not null,
    seen_at   timestamptz not null default now(),
    primary key (tenant_id, consumer, event_id)
);

create table mesh.idempotency (
    tenant_id    uuid        not null,
    owner        text        not null default current_user,
    key          text        not null check (length(key) <= 255),
    method       text        not null,
    request_hash bytea       not null,
    response     bytea       not null,
    created_at   timestamptz not null default now(),
    primary key (tenant_id, owner, key)
);

alter table mesh.outbox enable row level security;
alter table mesh.outbox force row level security;
alter table mesh.inbox enable row level security;
alter table mesh.inbox force row level security;
alter table mesh.idempotency enable row level security;
alter table mesh.idempotency force row level security;

create policy tenant on mesh.outbox to tenon_auth, tenon_tenant, tenon_billing, tenon_workflow
    using (tenant_id = (select nullif(current_setting('app.tenant_id', true), '')::uuid));
create policy tenant on mesh.idempotency to tenon_auth, tenon_tenant, tenon_billing, tenon_workflow
    using (tenant_id = (select nullif(current_setting('app.tenant_id', true), '')::uuid) and owner = current_user);
create policy system on mesh.outbox
    to tenon_auth_system, tenon_tenant_system, tenon_billing_system, tenon_workflow_system using (true);
create policy system on mesh.inbox
    to tenon_auth_system, tenon_tenant_system, tenon_billing_system, tenon_workflow_system using (true);

grant insert on mesh.outbox to tenon_auth, tenon_tenant, tenon_billing, tenon_workflow;
grant select, insert on mesh.idempotency to tenon_auth, tenon_tenant, tenon_billing, tenon_workflow;
grant select, insert on mesh.outbox
    to tenon_auth_system, tenon_tenant_system, tenon_billing_system, tenon_workflow_system;
grant select, insert on mesh.inbox
    to tenon_auth_system, tenon_tenant_system, tenon_billing_system, tenon_workflow_system;
grant select, insert, update on mesh.cursors
    to tenon_auth_system, tenon_tenant_system, tenon_billing_system, tenon_workflow_system;
