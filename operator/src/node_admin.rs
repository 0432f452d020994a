//! The admin API of the nodes, as the operator speaks it.
//!
//! One seam, [`Exchange`], carries a request to an address and brings the answer back; production
//! is a hyper connection for each request, tests put nodes of their own behind it. Every exchange
//! has a deadline and a bound on what is read.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use kvasir_core::admin_api::{
    DocumentAnswer, InitRequest, OperationRequest, OperationStatus, Problem, RepairStatus, Status,
    routes,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Deadline of a read.
const READ: Duration = Duration::from_secs(3);
/// Deadline of a write: it waits for a ballot.
const WRITE: Duration = Duration::from_secs(30);
/// Largest answer.
const LARGEST: usize = 16 << 20;

/// A future that an [`Exchange`] gives out.
pub type Exchanged<'a> = Pin<Box<dyn Future<Output = Result<Response<Bytes>, String>> + Send + 'a>>;

/// Carries one request to `host:port`.
pub trait Exchange: Send + Sync {
    /// The answer, or why there is none.
    fn exchange<'a>(&'a self, address: &'a str, request: Request<Full<Bytes>>) -> Exchanged<'a>;
}

/// Why a node did not do what it was asked.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum AskError {
    /// No answer: whether a write was taken is not known. The same may be asked again.
    #[error("{address} did not answer: {why}")]
    Silent {
        /// Who was asked.
        address: String,
        /// What happened.
        why: String,
    },
    /// The node refused, and says why. Asking again helps if its code says so.
    #[error("{address} refused: {problem}")]
    Refused {
        /// Who was asked.
        address: String,
        /// Its answer.
        problem: Box<Problem>,
    },
    /// The answer cannot be read: a version that this operator does not know.
    #[error("{address} answered {status} and what this version cannot read: {why}")]
    Unreadable {
        /// Who was asked.
        address: String,
        /// HTTP status.
        status: u16,
        /// What is wrong with it.
        why: String,
    },
}

/// The admin API over an [`Exchange`].
#[derive(Clone)]
pub struct NodeAdmin {
    exchange: Arc<dyn Exchange>,
    port: u16,
}

impl NodeAdmin {
    /// Nodes that listen on `port`.
    pub fn new(exchange: Arc<dyn Exchange>, port: u16) -> Self {
        Self { exchange, port }
    }

    /// `GET /v1/status`.
    pub async fn status(&self, ip: &str) -> Result<Status, AskError> {
        self.ask::<(), _>(Method::GET, ip, routes::STATUS, None, None).await
    }

    /// `GET /v1/operations/{id}`.
    pub async fn operation(&self, ip: &str, id: &str) -> Result<OperationStatus, AskError> {
        let path = routes::fill(routes::OPERATION, &[id.as_bytes()]);
        self.ask::<(), _>(Method::GET, ip, &path, None, None).await
    }

    /// `GET /v1/repair`.
    pub async fn repair(&self, ip: &str) -> Result<RepairStatus, AskError> {
        self.ask::<(), _>(Method::GET, ip, routes::REPAIR, None, None).await
    }

    /// `POST /v1/cluster/init`.
    pub async fn init(
        &self,
        ip: &str,
        token: &str,
        request: &InitRequest,
    ) -> Result<DocumentAnswer, AskError> {
        self.ask(Method::POST, ip, routes::INIT, Some(token), Some(request)).await
    }

    /// `POST /v1/operations`.
    pub async fn post(
        &self,
        ip: &str,
        token: &str,
        request: &OperationRequest,
    ) -> Result<OperationStatus, AskError> {
        self.ask(Method::POST, ip, routes::OPERATIONS, Some(token), Some(request)).await
    }

    /// `DELETE /v1/operations/{id}`.
    pub async fn cancel(
        &self,
        ip: &str,
        token: &str,
        id: &str,
    ) -> Result<OperationStatus, AskError> {
        let path = routes::fill(routes::OPERATION, &[id.as_bytes()]);
        self.ask::<(), _>(Method::DELETE, ip, &path, Some(token), None).await
    }

    async fn ask<B: Serialize, A: DeserializeOwned>(
        &self,
        method: Method,
        ip: &str,
        path: &str,
        token: Option<&str>,
        body: Option<&B>,
    ) -> Result<A, AskError> {
        let address = match ip.contains(':') {
            true => format!("[{ip}]:{}", self.port),
            false => format!("{ip}:{}", self.port),
        };
        let silent = |why: String| AskError::Silent { address: address.clone(), why };
        let deadline = if method == Method::GET { READ } else { WRITE };
        let mut request = Request::builder().method(method).uri(path).header(HOST, &address);
        if let Some(token) = token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        let bytes = match body {
            Some(body) => {
                request = request.header(CONTENT_TYPE, "application/json");
                serde_json::to_vec(body).map_err(|error| silent(error.to_string()))?
            }
            None => Vec::new(),
        };
        let request = request
            .body(Full::new(Bytes::from(bytes)))
            .map_err(|error| silent(error.to_string()))?;
        let exchanged = self.exchange.exchange(&address, request);
        let response = tokio::time::timeout(deadline, exchanged)
            .await
            .map_err(|_| silent(format!("no answer within {} s", deadline.as_secs())))?
            .map_err(silent)?;
        read(address, &response)
    }
}

fn read<A: DeserializeOwned>(address: String, response: &Response<Bytes>) -> Result<A, AskError> {
    let (status, body) = (response.status().as_u16(), response.body());
    let unreadable = |error: serde_json::Error, address| AskError::Unreadable {
        address,
        status,
        why: error.to_string(),
    };
    if response.status().is_success() {
        return serde_json::from_slice(body).map_err(|error| unreadable(error, address));
    }
    match serde_json::from_slice::<Problem>(body) {
        Ok(problem) => Err(AskError::Refused { address, problem: Box::new(problem) }),
        Err(error) => Err(unreadable(error, address)),
    }
}

/// One TCP connection for each request.
#[derive(Debug, Default, Clone, Copy)]
pub struct Tcp;

impl Exchange for Tcp {
    fn exchange<'a>(&'a self, address: &'a str, request: Request<Full<Bytes>>) -> Exchanged<'a> {
        Box::pin(async move {
            let stream =
                tokio::net::TcpStream::connect(address).await.map_err(|error| error.to_string())?;
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(TokioIo::new(stream))
                    .await
                    .map_err(|error| error.to_string())?;
            let talk = async {
                let response =
                    sender.send_request(request).await.map_err(|error| error.to_string())?;
                let (head, body) = response.into_parts();
                let body = Limited::new(body, LARGEST).collect().await;
                let body = body.map_err(|error| error.to_string())?.to_bytes();
                Ok(Response::from_parts(head, body))
            };
            tokio::pin!(talk);
            tokio::select! {
                answer = &mut talk => answer,
                // The connection may end right after the last byte: the answer is still there.
                ended = connection => match ended {
                    Ok(()) => talk.await,
                    Err(error) => Err(error.to_string()),
                },
            }
        })
    }
}

#[cfg(test)]
mod tests;
