-- Which tenants have runs that are due or asleep: whoever has few is found behind whoever has many without reading theirs.

create index runs_due_by_tenant on workflow.runs (tenant_id, due_at) where due_at < 'infinity';
