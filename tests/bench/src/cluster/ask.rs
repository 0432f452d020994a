//! One question over HTTP/1.1 on a connection of its own: what starting and watching servers needs, and no
//! request that is measured.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Longest wait for a connection, for a write and for each piece of the answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Status and body; the error says what went wrong, such as a port that nobody listens on.
pub fn ask(
    server: &SocketAddr,
    method: &str,
    path: &str,
    body: &str,
) -> Result<(u16, String), String> {
    let said = |error: std::io::Error| format!("{method} {server}{path}: {error}");
    let mut stream = TcpStream::connect_timeout(server, PATIENCE).map_err(said)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(said)?;
    stream.set_write_timeout(Some(PATIENCE)).map_err(said)?;
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: {server}\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all((head + body).as_bytes()).map_err(said)?;
    let mut answer = Vec::new();
    // Nothing that is asked here has more than a megabyte of answer.
    stream.take(1 << 20).read_to_end(&mut answer).map_err(said)?;
    let text = String::from_utf8_lossy(&answer);
    let status = text.split(' ').nth(1).and_then(|word| word.parse().ok());
    let status = status.ok_or_else(|| format!("{method} {server}{path}: no HTTP answer"))?;
    let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    Ok((status, body.to_string()))
}

/// The value of a JSON field, wherever it stands: a string without its quotes, or a number.
pub fn field(json: &str, name: &str) -> Option<String> {
    let after = json.split_once(&format!("\"{name}\""))?.1.trim_start().strip_prefix(':')?;
    let after = after.trim_start();
    let value = match after.strip_prefix('"') {
        Some(text) => text.split('"').next()?,
        None => after.split(|c: char| !c.is_ascii_alphanumeric()).next()?,
    };
    Some(value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn a_field_is_found() {
        let json = r#"{"header":{"member_id":"12"}, "leader" : "34","up": 3}"#;
        let found = |name| field(json, name);
        assert_eq!(found("member_id").as_deref(), Some("12"));
        assert_eq!((found("leader").as_deref(), found("up").as_deref()), (Some("34"), Some("3")));
        assert_eq!(found("term"), None);
    }

    #[test]
    fn status_and_body_come_back() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut head = [0; 1_024];
            let length = stream.read(&mut head).unwrap();
            stream.write_all(b"HTTP/1.1 409 Conflict\r\ncontent-length: 4\r\n\r\nbusy").unwrap();
            String::from_utf8_lossy(&head[..length]).into_owned()
        });
        let answer = ask(&address, "POST", "/x", "{}").unwrap();
        assert_eq!(answer, (409, "busy".to_string()));
        assert!(server.join().unwrap().starts_with("POST /x HTTP/1.1\r\n"));
    }
}
