-- Users, their sessions and the tenants' signing keys.
create schema if not exists auth;
grant usage on schema auth to tenon_auth, tenon_auth_system;

create table auth.users (
    tenant_id     uuid        not null,
    id            uuid        not null,
    email         text        not null check (length(email) <= 254),
    -- A stored column: lower() is not leakproof, so under row-level security it would never use an index.
    email_lower   text        not null,
    password_hash text        not null,
    roles         text[]      not null check (cardinality(roles) > 0),
    created_at    timestamptz not null,
    primary key (tenant_id, id),
    constraint users_email unique (tenant_id, email_lower)
);

create table auth.sessions (
    tenant_id  uuid        not null,
    id         uuid        not null,
    user_id    uuid        not null,
    amr        text[]      not null,
    auth_time  timestamptz not null,
    expires_at timestamptz not null,
    ended_at   timestamptz,
    primary key (tenant_id, id),
    foreign key (tenant_id, user_id) references auth.users (tenant_id, id) on delete cascade
);

-- Spent tokens are kept until they expire: one that is shown again ends its session.
create table auth.refresh_tokens (
    tenant_id  uuid        not null,
    hash       bytea       not null,
    session_id uuid        not null,
    expires_at timestamptz not null,
    spent_at   timestamptz,
    primary key (tenant_id, hash),
    foreign key (tenant_id, session_id) references auth.sessions (tenant_id, id) on delete cascade
);
create index refresh_tokens_session on auth.refresh_tokens (tenant_id, session_id);

create table auth.signing_keys (
    tenant_id      uuid        not null,
    id             uuid        not null,
    state          text        not null check (state in ('next', 'current', 'previous')),
    public_key     bytea       not null,
    -- PKCS #8 under the master key.
    sealed_private bytea       not null,
    created_at     timestamptz not null,
    primary key (tenant_id, id),
    constraint signing_keys_state unique (tenant_id, state)
);

do $$
declare name text;
begin
    foreach name in array array['users', 'sessions', 'refresh_tokens', 'signing_keys'] loop
        execute format('alter table auth.%I enable row level security', name);
        execute format('alter table auth.%I force row level security', name);
        execute format('create policy tenant on auth.%I to tenon_auth using '
            '(tenant_id = (select nullif(current_setting(''app.tenant_id'', true), '''')::uuid))', name);
        execute format('create policy system on auth.%I to tenon_auth_system using (true)', name);
        execute format('grant select, insert, update, delete on auth.%I to tenon_auth', name);
        execute format('grant select on auth.%I to tenon_auth_system', name);
    end loop;
end $$;
