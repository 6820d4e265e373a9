//! The secrets of `tenon dev`: made once, kept in a file that only its owner reads, and never used outside of dev.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
};

use anyhow::{Context as _, Result};
use base64::{Engine as _, engine::general_purpose::STANDARD, engine::general_purpose::URL_SAFE_NO_PAD};
use rand::Rng;
use serde::{Deserialize, Serialize};

/// Everything secret that a mesh of its own needs.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Secrets {
    pub(crate) mesh_key: String,
    pub(crate) master_key: String,
    /// Of the database owner, who migrates.
    pub(crate) database_password: String,
    pub(crate) auth_db_password: String,
    pub(crate) tenant_db_password: String,
    pub(crate) billing_db_password: String,
    pub(crate) workflow_db_password: String,
}

const NOTICE: &str = "# Made by `tenon dev`. It opens the database beside it: losing one makes the other useless.\n";

impl Secrets {
    /// Reads the file, or makes it.
    pub(crate) fn load_or_create(path: &Path, rng: &mut impl Rng) -> Result<Self> {
        match fs::read_to_string(path) {
            Ok(text) => {
                // A copied or restored file may have come open.
                fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
                toml::from_str(&text).with_context(|| format!("{} is damaged; restore it", path.display()))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Self::create(path, rng),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    fn create(path: &Path, rng: &mut impl Rng) -> Result<Self> {
        let secrets = Self::generate(rng);
        let text = format!("{NOTICE}{}", toml::to_string(&secrets)?);
        write_private(path, &text).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(secrets)
    }

    fn generate(rng: &mut impl Rng) -> Self {
        let mut key = || STANDARD.encode(rng.random::<[u8; 32]>());
        let (mesh_key, master_key) = (key(), key());
        let mut password = || URL_SAFE_NO_PAD.encode(rng.random::<[u8; 24]>());
        Self {
            mesh_key,
            master_key,
            database_password: password(),
            auth_db_password: password(),
            tenant_db_password: password(),
            billing_db_password: password(),
            workflow_db_password: password(),
        }
    }
}

/// Writes a file that only its owner reads, whole or not at all.
pub(crate) fn write_private(path: &Path, text: &str) -> std::io::Result<()> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(".new");
    let _missing = fs::remove_file(&partial);
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&partial)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&partial, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_made_once_and_kept_private() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secrets.toml");
        let first = Secrets::load_or_create(&path, &mut rand::rng()).unwrap();
        let again = Secrets::load_or_create(&path, &mut rand::rng()).unwrap();
        assert_eq!((&first.mesh_key, &first.database_password), (&again.mesh_key, &again.database_password));
        assert_eq!(STANDARD.decode(&first.master_key).unwrap().len(), 32);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
