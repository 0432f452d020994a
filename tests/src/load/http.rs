//! A small HTTP client over any byte stream: one kept connection per server, one request at a time.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// A connected byte stream.
pub trait Stream: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Stream for T {}

/// A future that stays on its thread.
pub type Local<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// How a server is reached.
pub trait Dial {
    /// Connects to `address`, which is `host:port`.
    fn dial<'a>(&'a self, address: &'a str) -> Local<'a, io::Result<Box<dyn Stream>>>;
}

/// Real sockets.
#[derive(Clone, Copy, Debug, Default)]
pub struct TcpDial;

impl Dial for TcpDial {
    fn dial<'a>(&'a self, address: &'a str) -> Local<'a, io::Result<Box<dyn Stream>>> {
        Box::pin(async move {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as Box<dyn Stream>)
        })
    }
}

/// An answer, read whole.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// Header names in lower case.
    pub headers: BTreeMap<String, String>,
    /// The body.
    pub body: Bytes,
}

impl Answer {
    /// One header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// The body as text, lossy.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Why there is no answer.
#[derive(Clone, Debug)]
pub enum NoAnswer {
    /// Nothing was sent: not applied.
    NotSent(String),
    /// Something may have been sent: unknown.
    Lost(String),
}

/// One request.
#[derive(Clone, Debug)]
pub struct Ask {
    /// The method.
    pub method: Method,
    /// Path and query.
    pub path: String,
    /// Headers.
    pub headers: Vec<(&'static str, String)>,
    /// The body.
    pub body: Bytes,
}

impl Ask {
    /// A request without headers or body.
    pub fn new(method: Method, path: impl Into<String>) -> Self {
        Self { method, path: path.into(), headers: Vec::new(), body: Bytes::new() }
    }
}

/// One client with a kept connection per server.
pub struct HttpClient {
    dial: Rc<dyn Dial>,
    timeout: Duration,
    kept: RefCell<BTreeMap<String, SendRequest<Full<Bytes>>>>,
}

impl HttpClient {
    /// A client that waits at most `timeout` for each answer.
    pub fn new(dial: Rc<dyn Dial>, timeout: Duration) -> Self {
        Self { dial, timeout, kept: RefCell::new(BTreeMap::new()) }
    }

    /// Sends one request and reads the whole answer. Must run inside a `LocalSet`.
    ///
    /// # Errors
    /// [`NoAnswer`], which says whether anything was sent.
    pub async fn ask(&self, server: &str, ask: Ask) -> Result<Answer, NoAnswer> {
        match tokio::time::timeout(self.timeout, self.attempt(server, ask)).await {
            Ok(result) => result,
            Err(_) => Err(NoAnswer::Lost(format!("no answer within {:?}", self.timeout))),
        }
    }

    async fn connection(&self, server: &str) -> Result<SendRequest<Full<Bytes>>, NoAnswer> {
        let kept = self.kept.borrow_mut().remove(server);
        if let Some(mut sender) = kept
            && sender.ready().await.is_ok()
        {
            return Ok(sender);
        }
        let stream = self.dial.dial(server).await.map_err(|e| NoAnswer::NotSent(e.to_string()))?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|e| NoAnswer::NotSent(e.to_string()))?;
        tokio::task::spawn_local(async move {
            // The error, if any, reaches the request that was under way.
            let _ = connection.await;
        });
        Ok(sender)
    }

    async fn attempt(&self, server: &str, ask: Ask) -> Result<Answer, NoAnswer> {
        let mut sender = self.connection(server).await?;
        let mut request =
            Request::builder().method(ask.method).uri(ask.path).header("host", server);
        for (name, value) in ask.headers {
            request = request.header(name, value);
        }
        let request = request
            .body(Full::new(ask.body))
            .map_err(|e| NoAnswer::NotSent(format!("not a request: {e}")))?;
        let response =
            sender.send_request(request).await.map_err(|e| NoAnswer::Lost(e.to_string()))?;
        let answer = read(response).await?;
        self.kept.borrow_mut().insert(server.to_string(), sender);
        Ok(answer)
    }
}

async fn read(response: Response<hyper::body::Incoming>) -> Result<Answer, NoAnswer> {
    let status = response.status().as_u16();
    let headers = response
        .headers()
        .iter()
        .map(|(n, v)| (n.as_str().to_string(), String::from_utf8_lossy(v.as_bytes()).into_owned()))
        .collect();
    let body =
        response.into_body().collect().await.map_err(|e| NoAnswer::Lost(e.to_string()))?.to_bytes();
    Ok(Answer { status, headers, body })
}
