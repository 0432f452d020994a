//! Calls of programs with a bound on their time, and waiting for what they say.

use std::io::Read;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Longest run of one program.
const ONE_CALL: Duration = Duration::from_secs(300);

/// What a program said.
#[derive(Clone, Debug)]
pub struct Said {
    /// Did it end with success?
    pub ok: bool,
    /// Its standard output.
    pub out: String,
    /// Its standard error.
    pub err: String,
}

impl Said {
    /// The output as JSON.
    ///
    /// # Panics
    /// It is none.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("no JSON ({e}): {self:?}"))
    }
}

/// Runs a program to its end with the given standard input.
///
/// # Panics
/// It cannot be started, or does not end in time.
pub fn command(program: &str, arguments: &[&str], input: &str) -> Said {
    use std::io::Write;
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("{program}: {e}. try: eval \"$(tests/kube/up)\""));
    let mut stdin = child.stdin.take().expect("piped");
    let input = input.to_string();
    // Threads, since a program may write much before it has read all.
    let writing = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
    let out = drain(child.stdout.take().expect("piped"));
    let err = drain(child.stderr.take().expect("piped"));
    let begun = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().expect("a child can be waited for") {
            break status;
        }
        if begun.elapsed() > ONE_CALL {
            child.kill().expect("a child can be killed");
            panic!("{program} {arguments:?} did not end within {ONE_CALL:?}");
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    // A program may end without reading its input.
    let _ = writing.join().expect("no panic");
    let text = |thread: std::thread::JoinHandle<Vec<u8>>| {
        String::from_utf8_lossy(&thread.join().expect("no panic")).into_owned()
    };
    Said { ok: status.success(), out: text(out), err: text(err) }
}

fn drain(mut from: impl Read + Send + 'static) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut all = Vec::new();
        // What came before an error is shown all the same.
        let _ = from.read_to_end(&mut all);
        all
    })
}

/// kubectl, whatever it answers.
pub fn try_kubectl(arguments: &[&str], input: &str) -> Said {
    command("kubectl", arguments, input)
}

/// kubectl, which must succeed.
///
/// # Panics
/// It does not.
pub fn kubectl(arguments: &[&str]) -> Said {
    let said = try_kubectl(arguments, "");
    assert!(said.ok, "kubectl {}: {}{}", arguments.join(" "), said.out, said.err);
    said
}

/// helm, which must succeed.
///
/// # Panics
/// It does not.
pub fn helm(arguments: &[&str]) -> Said {
    let said = command("helm", arguments, "");
    assert!(said.ok, "helm {}: {}{}", arguments.join(" "), said.out, said.err);
    said
}

/// Asks again and again until the answer is `Ok`; what was said last is in the panic otherwise.
///
/// # Panics
/// The deadline passes.
pub fn until<T>(what: &str, patience: Duration, mut ask: impl FnMut() -> Result<T, String>) -> T {
    let begun = Instant::now();
    loop {
        match ask() {
            Ok(found) => return found,
            Err(seen) if begun.elapsed() > patience => {
                panic!("{what}: not within {patience:?}; seen last: {seen}")
            }
            Err(_) => std::thread::sleep(Duration::from_millis(300)),
        }
    }
}
