//! Which servers a command talks to.
//!
//! A server is `http://HOST[:PORT]`; several are separated by commas and tried in order. Client
//! commands use the HTTP port, cluster commands the admin port. Where no admin URL is given it
//! follows from the servers by one rule: the same host at port 9098 (the default of `kvasir
//! serve`), and for a loopback host also its own port + 200 (the layout of `kvasir dev`).

use std::fmt;

use super::failure::Failure;

/// Servers of client commands when none are named: a plain `kvasir serve`, then `kvasir dev`.
pub const DEFAULT_SERVERS: &str = "http://127.0.0.1:8098,http://127.0.0.1:8100";
/// Admin port of `kvasir serve`.
const ADMIN_PORT: u16 = 9098;
/// Admin port of a node of `kvasir dev`, relative to its HTTP port.
const DEV_ADMIN_OFFSET: u16 = 200;

/// One server: where to connect to and what to write into `Host`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// Name or address, IPv6 addresses in brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

impl Server {
    /// `host:port`, as `connect` and the `Host` header want it.
    pub fn authority(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    fn is_loopback(&self) -> bool {
        self.host == "localhost"
            || self
                .host
                .trim_matches(['[', ']'])
                .parse::<std::net::IpAddr>()
                .is_ok_and(|address| address.is_loopback())
    }
}

impl fmt::Display for Server {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "http://{}:{}", self.host, self.port)
    }
}

/// Reads a list of servers. `option` is named in errors, `port` holds where a URL names none.
pub fn parse(option: &str, list: &str, port: u16) -> Result<Vec<Server>, Failure> {
    let servers: Result<Vec<Server>, Failure> = list
        .split(',')
        .map(str::trim)
        .filter(|url| !url.is_empty())
        .map(|url| parse_one(option, url, port))
        .collect();
    let servers = servers?;
    if servers.is_empty() {
        return Err(refused(option, list, "it names no server"));
    }
    Ok(servers)
}

/// The admin servers that follow from the client servers when none are named.
pub fn derive_admin(servers: &[Server]) -> Vec<Server> {
    let mut derived: Vec<Server> = Vec::new();
    for server in servers {
        let dev = server.is_loopback().then(|| server.port.checked_add(DEV_ADMIN_OFFSET)).flatten();
        for port in dev.into_iter().chain([ADMIN_PORT]) {
            let admin = Server { host: server.host.clone(), port };
            if !derived.contains(&admin) {
                derived.push(admin);
            }
        }
    }
    derived
}

fn parse_one(option: &str, url: &str, port: u16) -> Result<Server, Failure> {
    let rest = match url.split_once("://") {
        Some(("http", rest)) => rest,
        Some((scheme, _)) => {
            return Err(refused(option, url, &format!("`{scheme}` is not spoken, only http")));
        }
        None => url,
    };
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    if authority.contains(['/', '?', '#', '@']) {
        return Err(refused(option, url, "only a host and a port can be given"));
    }
    let after_brackets = authority.rfind(']').map_or(0, |end| end + 1);
    let (host, port) = match authority[after_brackets..].rfind(':') {
        None => (authority, port),
        Some(at) => {
            let (host, text) = authority.split_at(after_brackets + at);
            let port = text[1..].parse::<u16>().ok().filter(|port| *port > 0);
            (host, port.ok_or_else(|| refused(option, url, "the port is not 1 to 65535"))?)
        }
    };
    if host.is_empty() || host.chars().any(char::is_whitespace) {
        return Err(refused(option, url, "the host is missing"));
    }
    Ok(Server { host: host.to_owned(), port })
}

fn refused(option: &str, url: &str, why: &str) -> Failure {
    Failure::usage(
        format!("{option} `{url}`: {why}"),
        format!("{option} http://127.0.0.1:8100,http://127.0.0.1:8101"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(servers: &[Server]) -> Vec<String> {
        servers.iter().map(Server::to_string).collect()
    }

    #[test]
    fn lists_of_urls() {
        let servers =
            parse("--server", "http://a:1, b:2/,http://[::1]:3,c,http://[::1]", 9).unwrap();
        assert_eq!(
            texts(&servers),
            ["http://a:1", "http://b:2", "http://[::1]:3", "http://c:9", "http://[::1]:9"]
        );
        for bad in
            ["", " , ", "https://a:1", "http://a:0", "http://a:x", "http://:1", "http://a/v1"]
        {
            let failure = parse("--server", bad, 9).unwrap_err();
            assert_eq!(failure.exit.code(), 2, "{bad}");
        }
    }

    #[test]
    fn admin_follows_from_the_servers() {
        let servers = parse("--server", "http://127.0.0.1:8100,http://127.0.0.1:8101", 9).unwrap();
        assert_eq!(
            texts(&derive_admin(&servers)),
            ["http://127.0.0.1:8300", "http://127.0.0.1:9098", "http://127.0.0.1:8301"]
        );
        let servers = parse("--server", "http://kv.example:8098", 9).unwrap();
        assert_eq!(texts(&derive_admin(&servers)), ["http://kv.example:9098"]);
    }
}
