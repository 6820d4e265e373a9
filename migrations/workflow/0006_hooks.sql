-- Webhooks in: hooks that others call, and what they delivered of late. Webhooks out: endpoints that are told of events.
create table workflow.hooks (
    tenant_id       uuid        not null,
    hook_id         text        not null,
    scheme          text        not null check (scheme in ('STANDARD_WEBHOOKS', 'META', 'STRIPE', 'GITHUB', 'SLACK', 'HMAC_SHA256')),
    -- Sealed; the one before still verifies for a while after it was replaced.
    secret          bytea       not null,
    previous_secret bytea,
    previous_until  timestamptz,
    -- HMAC_SHA256: the headers of the signature and of the delivery's id.
    header          text        not null default '',
    id_header       text        not null default '',
    tolerance_s     integer     not null check (tolerance_s between 30 and 3600),
    targets         jsonb       not null,
    -- The maker, in whose name and with whose roles runs are started.
    created_by      text        not null,
    roles           text[]      not null,
    created_at      timestamptz not null default now(),
    primary key (tenant_id, hook_id)
);

create table workflow.hook_deliveries (
    tenant_id   uuid        not null,
    hook_id     text        not null,
    delivery_id text        not null,
    received_at timestamptz not null default now(),
    primary key (tenant_id, hook_id, delivery_id)
);
create index hook_deliveries_by_age on workflow.hook_deliveries (received_at);

create table workflow.endpoints (
    tenant_id       uuid        not null,
    endpoint_id     text        not null,
    url             text        not null,
    event_types     text[]      not null,
    description     text        not null default '',
    secret          bytea       not null,
    previous_secret bytea,
    previous_until  timestamptz,
    state           text        not null default 'ENABLED' check (state in ('ENABLED', 'DISABLED', 'FAILING')),
    failing_since   timestamptz,
    created_at      timestamptz not null default now(),
    primary key (tenant_id, endpoint_id)
);

create table workflow.deliveries (
    tenant_id    uuid        not null,
    id           uuid        not null,
    endpoint_id  text        not null,
    event_id     uuid        not null,
    event_type   text        not null,
    -- The body as it is signed and sent.
    payload      text        not null,
    state        text        not null default 'PENDING' check (state in ('PENDING', 'DELIVERED', 'FAILED')),
    attempts     integer     not null default 0,
    next_at      timestamptz,
    -- The newest attempts: time, status or error, duration in milliseconds.
    log          jsonb       not null default '[]',
    created_at   timestamptz not null default now(),
    delivered_at timestamptz,
    primary key (tenant_id, id),
    unique (tenant_id, endpoint_id, event_id),
    foreign key (tenant_id, endpoint_id) references workflow.endpoints (tenant_id, endpoint_id) on delete cascade,
    check ((state = 'PENDING') = (next_at is not null))
);
create index deliveries_due on workflow.deliveries (next_at) where state = 'PENDING';
create index deliveries_by_endpoint on workflow.deliveries (tenant_id, endpoint_id, id);

do $$
declare
    name text;
begin
    foreach name in array array['hooks', 'hook_deliveries', 'endpoints', 'deliveries'] loop
        execute format('alter table workflow.%I enable row level security', name);
        execute format('alter table workflow.%I force row level security', name);
        execute format('create policy tenant on workflow.%I to tenon_workflow
            using (tenant_id = (select nullif(current_setting(''app.tenant_id'', true), '''')::uuid))', name);
        execute format('create policy system on workflow.%I to tenon_workflow_system using (true) with check (true)', name);
    end loop;
end
$$;

grant select, insert, update, delete on workflow.hooks to tenon_workflow;
grant select, insert on workflow.hook_deliveries to tenon_workflow;
grant select, delete on workflow.hook_deliveries to tenon_workflow_system;
grant select, insert, update, delete on workflow.endpoints to tenon_workflow;
grant select, insert, update on workflow.deliveries to tenon_workflow;
grant select, update on workflow.endpoints to tenon_workflow_system;
grant select, insert, update, delete on workflow.deliveries to tenon_workflow_system;
