//! Where `tenon dev` keeps its data: `.tenon/` in the folder it is started in, or a temporary folder that goes at the end.

use std::{
    fs::{self, File, TryLockError},
    io::{Read as _, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use sha2::{Digest as _, Sha256};

use super::account::Account;

/// The data folder, held by this process alone until it ends.
#[derive(Debug)]
pub(crate) struct Folder {
    pub(crate) root: PathBuf,
    pub(crate) is_ephemeral: bool,
    /// The kernel lets go of the lock when the process ends, however it ends.
    _lock: File,
}

impl Folder {
    /// Makes or opens the data folder and keeps every other `tenon dev` out of it.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        fs::create_dir_all(path).with_context(|| format!("cannot make the data folder {}", path.display()))?;
        let root = path.canonicalize()?;
        // A data folder inside of somebody's checkout must never be committed.
        let ignore = root.join(".gitignore");
        if !ignore.exists() {
            fs::write(&ignore, "*\n").with_context(|| format!("cannot write in {}", root.display()))?;
        }
        Ok(Self { _lock: lock(&root)?, root, is_ephemeral: false })
    }

    /// Makes a temporary folder. `Cluster` has it removed at the end, even when this process is killed.
    pub(crate) fn temporary(account: Option<&Account>) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("tenon-").tempdir().context("cannot make a temporary folder")?;
        let root = folder.keep().canonicalize()?;
        if account.is_some() {
            // The account must be able to pass through; what is secret inside has its own mode.
            fs::set_permissions(&root, fs::Permissions::from_mode(0o755))?;
        }
        Ok(Self { _lock: lock(&root)?, root, is_ephemeral: true })
    }

    /// A path inside.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Where Postgres keeps its files: inside, or, when its account cannot come in here, under /var/lib.
    pub(crate) fn for_postgres(&self, account: Option<&Account>) -> Result<PathBuf> {
        let Some(account) = account.filter(|account| !account.can_enter(&self.root)) else {
            return Ok(self.root.clone());
        };
        let fallback = PathBuf::from(format!("/var/lib/tenon/{}", short_hash(&self.root)));
        fs::create_dir_all(&fallback).with_context(|| format!("cannot make {}", fallback.display()))?;
        if !account.can_enter(&fallback) {
            bail!(
                "user {} can enter neither {} nor {}; choose another --data-dir",
                account.name,
                self.root.display(),
                fallback.display()
            );
        }
        crate::say(&format!(
            "user {} cannot enter {}: Postgres keeps its files in {}",
            account.name,
            self.root.display(),
            fallback.display()
        ));
        Ok(fallback)
    }
}

impl Drop for Folder {
    /// The guard of Postgres removes it too; this is for a start that never came that far.
    fn drop(&mut self) {
        if self.is_ephemeral {
            let _removed_already = fs::remove_dir_all(&self.root);
        }
    }
}

fn lock(root: &Path) -> Result<File> {
    let path = root.join("lock");
    let mut file = File::options().create(true).truncate(false).read(true).write(true).open(&path)?;
    match file.try_lock() {
        Ok(()) => {
            file.set_len(0)?;
            write!(file, "{}", std::process::id())?;
            Ok(file)
        }
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            file.read_to_string(&mut holder)?;
            bail!(
                "another `tenon dev` (process {holder}) uses {}; stop it, or give this one --data-dir PATH --port-offset N, or --ephemeral --port-offset N",
                root.display()
            )
        }
        Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("cannot lock {}", path.display())),
    }
}

fn short_hash(path: &Path) -> String {
    let digest = Sha256::digest(path.as_os_str().as_encoded_bytes());
    digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_start_on_the_same_folder_is_refused_with_a_way_out() {
        let parent = tempfile::tempdir().unwrap();
        let first = Folder::open(&parent.path().join(".tenon")).unwrap();
        let error = Folder::open(&first.root).unwrap_err().to_string();
        assert!(error.contains(&std::process::id().to_string()), "{error}");
        assert!(error.contains("--port-offset") && error.contains("--ephemeral"), "{error}");
        drop(first);
        assert!(Folder::open(&parent.path().join(".tenon")).is_ok());
    }
}
