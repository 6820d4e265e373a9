-- The engine writes a run and its history in one transaction, and histories are never moved: checking that the run is there,
-- with a lock on its row, for each of the many events of a run costs more than writing them.
alter table workflow.history drop constraint history_tenant_id_run_id_fkey;
