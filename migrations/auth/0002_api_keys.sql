-- API keys: how programs call in a tenant's name. A key that is revoked has no row.
create table auth.api_keys (
    tenant_id    uuid        not null,
    id           uuid        not null,
    display_name text        not null check (length(display_name) between 1 and 100),
    -- Roles, and permissions, which have a dot.
    roles        text[]      not null check (cardinality(roles) > 0),
    -- SHA-256 of the secret.
    hash         bytea       not null check (length(hash) = 32),
    -- A user's id, and no reference: keys are the tenant's and go on without their maker.
    created_by   uuid        not null,
    created_at   timestamptz not null,
    expires_at   timestamptz not null,
    last_used_at timestamptz,
    primary key (tenant_id, id)
);

alter table auth.api_keys enable row level security;
alter table auth.api_keys force row level security;
create policy tenant on auth.api_keys to tenon_auth using
    (tenant_id = (select nullif(current_setting('app.tenant_id', true), '')::uuid));
create policy system on auth.api_keys to tenon_auth_system using (true);
grant select, insert, update, delete on auth.api_keys to tenon_auth;
grant select on auth.api_keys to tenon_auth_system;
