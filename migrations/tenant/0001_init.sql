-- The registry of tenants, and sign-ups on their way.
create schema if not exists tenant;
grant usage on schema tenant to tenon_tenant, tenon_tenant_system;

create table tenant.tenants (
    tenant_id    uuid        not null,
    slug         text        not null check (slug ~ '^[a-z0-9]([a-z0-9-]{1,61}[a-z0-9])$'),
    display_name text        not null check (length(display_name) between 1 and 100),
    region       text        not null,
    status       text        not null
        check (status in ('provisioning', 'active', 'pending_payment', 'suspended', 'deleted')),
    plan         text        not null default '',
    features     text[]      not null default '{}',
    limits       jsonb       not null default '{}',
    -- Grows with each change: the directory keeps the greater of two.
    version      bigint      not null default 1,
    created_at   timestamptz not null,
    primary key (tenant_id),
    constraint tenants_slug unique (slug)
);

-- The steps of a sign-up, persisted so that a crash between them is resumed.
create table tenant.onboardings (
    tenant_id       uuid        not null,
    idempotency_key text,
    request_hash    bytea       not null,
    step            text        not null check (step in ('admin', 'subscription', 'activate', 'done')),
    -- The admin's e-mail and password under the master key; gone once the user is made.
    sealed_admin    bytea,
    admin_user      text,
    subscription    text,
    entitlements    jsonb,
    traceparent     text,
    updated_at      timestamptz not null,
    primary key (tenant_id),
    foreign key (tenant_id) references tenant.tenants (tenant_id) on delete cascade,
    constraint onboardings_key unique (idempotency_key)
);
create index onboardings_open on tenant.onboardings (updated_at) where step <> 'done';

do $$
declare name text;
begin
    foreach name in array array['tenants', 'onboardings'] loop
        execute format('alter table tenant.%I enable row level security', name);
        execute format('alter table tenant.%I force row level security', name);
        execute format('create policy tenant on tenant.%I to tenon_tenant using '
            '(tenant_id = (select nullif(current_setting(''app.tenant_id'', true), '''')::uuid))', name);
        execute format('create policy system on tenant.%I to tenon_tenant_system using (true)', name);
        execute format('grant select, insert, update, delete on tenant.%I to tenon_tenant', name);
        execute format('grant select on tenant.%I to tenon_tenant_system', name);
    end loop;
end $$;
