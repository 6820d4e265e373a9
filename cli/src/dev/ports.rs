//! The ports of `tenon dev`: all are checked before anything starts, and a taken one is named with the flag that moves it.

use std::net::{IpAddr, SocketAddr, TcpListener};

use anyhow::{Result, bail};

/// What listens, the flag that moves it alone, and its default.
pub(crate) const NAMES: [(&str, &str, u16); 7] = [
    ("edge", "edge-port", 8080),
    ("auth", "auth-port", 9101),
    ("tenant", "tenant-port", 9102),
    ("billing", "billing-port", 9103),
    ("workflow", "workflow-port", 9104),
    ("health and metrics", "admin-port", 9100),
    ("trace page", "trace-port", 16686),
];

/// The default ports, moved by an offset.
pub(crate) fn moved(offset: u16) -> Result<Vec<(&'static str, u16)>> {
    NAMES
        .iter()
        .map(|(name, flag, port)| match port.checked_add(offset) {
            Some(moved) => Ok((*flag, moved)),
            None => bail!("--port-offset {offset} moves the {name} port past 65535; the most that fits is 48849"),
        })
        .collect()
}

/// Refuses when a port is taken, or two are the same; `ports` is (flag, port).
pub(crate) fn check(bind: IpAddr, ports: &[(&str, u16)]) -> Result<()> {
    let name_of = |flag: &str| NAMES.iter().find(|(_, known, _)| *known == flag).map_or("port", |(name, ..)| *name);
    let mut problems = Vec::new();
    for (index, (flag, port)) in ports.iter().enumerate() {
        let name = name_of(flag);
        if let Some((other, _)) = ports[..index].iter().find(|(_, earlier)| earlier == port) {
            problems.push(format!(
                "  {port} is asked for twice: {} and {name}; move one with --{flag} PORT",
                name_of(other)
            ));
        } else if let Err(error) = TcpListener::bind(SocketAddr::new(bind, *port)) {
            problems.push(format!("  {port} ({name}): {error}; move it with --{flag} PORT"));
        }
    }
    if problems.is_empty() {
        return Ok(());
    }
    bail!("cannot listen on {bind}:\n{}\nor move all of them at once with --port-offset 1000", problems.join("\n"))
}

/// A port that is free now, given by the system.
pub(crate) fn free() -> Result<u16> {
    Ok(TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// Whether a loopback port can be listened on.
pub(crate) fn is_free(port: u16) -> bool {
    TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, port)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_named_with_the_flag_that_moves_it() {
        let held = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = held.local_addr().unwrap().port();
        let error = check("127.0.0.1".parse().unwrap(), &[("edge-port", port)]).unwrap_err().to_string();
        assert!(error.contains(&format!("{port} (edge)")), "{error}");
        assert!(error.contains("--edge-port PORT") && error.contains("--port-offset"), "{error}");
    }

    #[test]
    fn one_port_cannot_be_used_twice() {
        let port = free().unwrap();
        let error = check("127.0.0.1".parse().unwrap(), &[("edge-port", port), ("auth-port", port)]).unwrap_err();
        assert!(error.to_string().contains("asked for twice: edge and auth"), "{error}");
    }

    #[test]
    fn an_offset_moves_every_port() {
        assert_eq!(moved(1000).unwrap()[0], ("edge-port", 9080));
        assert_eq!(moved(1000).unwrap().len(), NAMES.len());
        assert!(moved(48_849).is_ok());
        assert!(moved(48_850).unwrap_err().to_string().contains("48849"));
    }
}
