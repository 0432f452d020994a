//! A port of a pod or Service on this machine, by `kubectl port-forward`, and curl through it.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use super::client::{Said, command};

/// A running forward; it ends when this is dropped.
pub struct Forward {
    child: Child,
    address: String,
}

impl Forward {
    /// Forwards a free local port to `port` of `target`, such as `service/demo`.
    ///
    /// # Panics
    /// kubectl refuses.
    pub fn to(namespace: &str, target: &str, port: u16) -> Self {
        let mut child = Command::new("kubectl")
            .args(["-n", namespace, "port-forward", target, &format!(":{port}")])
            .stdout(Stdio::piped())
            .spawn()
            .expect("kubectl starts");
        let mut line = String::new();
        let mut out = BufReader::new(child.stdout.take().expect("piped"));
        out.read_line(&mut line).expect("a line or the end");
        let address = line.strip_prefix("Forwarding from ").and_then(|l| l.split(' ').next());
        let address = address
            .unwrap_or_else(|| panic!("port-forward to {target}:{port} did not begin: {line}"))
            .to_string();
        // The rest of its output has to go somewhere, or it would stop at a full pipe.
        std::thread::spawn(move || std::io::copy(&mut out, &mut std::io::sink()));
        Self { child, address }
    }

    /// curl on a path behind it. `-f`: an HTTP error is a failure with the body shown.
    pub fn curl(&self, path: &str, arguments: &[&str]) -> Said {
        let url = format!("http://{}{path}", self.address);
        let always = ["-sS", "--fail-with-body", "--max-time", "20"];
        command("curl", &[&always, arguments, &[&url]].concat(), "")
    }

    /// As [`Forward::curl`], on many paths by one call and one connection; the bodies come one after the other.
    pub fn curl_all(&self, paths: &[String], arguments: &[&str]) -> Said {
        let urls: Vec<String> =
            paths.iter().map(|path| format!("http://{}{path}", self.address)).collect();
        let urls: Vec<&str> = urls.iter().map(String::as_str).collect();
        let always = ["-sS", "--fail-with-body", "--max-time", "20"];
        command("curl", &[&always, arguments, &urls].concat(), "")
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        // It may have ended with its pod.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
