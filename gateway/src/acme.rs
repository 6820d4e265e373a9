//! Tokens of ACME's HTTP-01 challenge (RFC 8555, section 8.3), from a folder that the client of a certificate authority
//! writes to.

use std::{
    fs::{File, symlink_metadata},
    io::Read,
    path::Path,
};

use http::Method as Verb;

const PREFIX: &str = "/.well-known/acme-challenge/";
/// Characters of a token: that of Let's Encrypt has 43.
const MAX_TOKEN: usize = 128;
/// Bytes of an answer: a token and the thumbprint of a key.
const MAX_BYTES: u64 = 1_024;

/// What the folder holds under the token that a path ends with.
pub(crate) fn answer(folder: Option<&Path>, verb: &Verb, path: &str) -> Option<Vec<u8>> {
    let token = path.strip_prefix(PREFIX).filter(|_| *verb == Verb::GET || *verb == Verb::HEAD)?;
    // base64url: nothing that leads out of the folder, or to a hidden file.
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    if token.is_empty() || token.len() > MAX_TOKEN || !token.bytes().all(plain) {
        return None;
    }
    let file = folder?.join(token);
    let seen = symlink_metadata(&file).ok()?;
    if !seen.is_file() || seen.len() > MAX_BYTES {
        return None;
    }
    let mut answer = Vec::new();
    File::open(file).ok()?.take(MAX_BYTES).read_to_end(&mut answer).ok()?;
    Some(answer)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    #[test]
    fn a_token_is_a_small_file_of_its_folder() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("tokens");
        fs::create_dir(&folder).unwrap();
        fs::write(root.path().join("secret"), "s").unwrap();
        fs::write(folder.join("evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr-oA"), "token.thumbprint").unwrap();
        fs::write(folder.join("large"), vec![b'a'; 1_025]).unwrap();
        fs::write(folder.join(".hidden"), "h").unwrap();
        symlink(root.path().join("secret"), folder.join("link")).unwrap();
        fs::create_dir(folder.join("folder")).unwrap();
        let asked = |verb: &Verb, path: &str| answer(Some(&folder), verb, path);
        let path = |token: &str| format!("{PREFIX}{token}");
        let known = path("evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr-oA");
        assert_eq!(asked(&Verb::GET, &known).unwrap(), b"token.thumbprint");
        assert!(asked(&Verb::HEAD, &known).is_some() && asked(&Verb::POST, &known).is_none());
        assert_eq!(answer(None, &Verb::GET, &known), None);
        let long = "a".repeat(129);
        for token in ["", "../secret", "%2e%2e/secret", "link", "large", ".hidden", "folder", "none", "a/b", &long] {
            assert_eq!(asked(&Verb::GET, &path(token)), None, "{token}");
        }
    }
}
