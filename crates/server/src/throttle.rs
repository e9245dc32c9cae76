//! Before the service: what a party may call for is counted, and a request that does not go on ends, before anything of it
//! is read.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use ciphertune_wire::{ConnectInfo, Refusal};
use http_body_util::BodyExt as _;
use hyper::{
    Request, Response,
    body::{Body as HttpBody, Bytes, Frame, SizeHint},
};
use tokio::time::{Sleep, sleep};
use tonic::{
    Status,
    body::Body,
    codegen::{BoxFuture, Service},
};

use crate::{
    allowance::Allowances,
    limits::{DEAR, IDLE, PACE},
};

/// A service behind every party's allowance.
#[derive(Clone)]
pub struct Throttled<S> {
    inner: S,
    allowances: Arc<Allowances>,
}

impl<S> Throttled<S> {
    /// Nobody has called yet.
    pub fn new(inner: S) -> Self {
        Self {
            inner,
            allowances: Arc::default(),
        }
    }
}

impl<S> Service<Request<Body>> for Throttled<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Response<Body>, Infallible>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let certificates = request
            .extensions()
            .get::<ConnectInfo>()
            .and_then(ConnectInfo::peer_certs);
        // Without one the service refuses the call; so do strangers' calls count together.
        let certificate = certificates.as_ref().and_then(|all| all.first());
        let certificate = certificate.map(AsRef::as_ref).unwrap_or_default();
        let cost = cost(request.uri().path());
        let Some(under_way) = self.allowances.enter(certificate, cost, Instant::now()) else {
            return Box::pin(async { Ok(Status::from(Refusal::Busy).into_http()) });
        };
        let answered = self
            .inner
            .call(request.map(|body| Body::new(Paced::new(body, IDLE))));
        Box::pin(async move {
            let response = answered.await?;
            // A stream is under way until its last frame.
            Ok(response.map(|body| {
                Body::new(body.map_frame(move |frame| {
                    let _ = &under_way;
                    frame
                }))
            }))
        })
    }
}

fn cost(path: &str) -> u32 {
    match path.rsplit('/').next() {
        Some("PutOneTimeKeys" | "SubmitJob") => DEAR,
        _ => 1,
    }
}

/// A request's bytes, which must go on.
struct Paced {
    body: Body,
    patience: Duration,
    /// Since time was last given.
    came: usize,
    /// While it is waited.
    idle: Option<Pin<Box<Sleep>>>,
}

impl Paced {
    fn new(body: Body, patience: Duration) -> Self {
        Self {
            body,
            patience,
            came: 0,
            idle: None,
        }
    }
}

impl HttpBody for Paced {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            if let Some(Ok(frame)) = &frame {
                self.came += frame.data_ref().map_or(0, Bytes::len);
            }
            if self.came >= PACE {
                (self.came, self.idle) = (0, None);
            }
            return Poll::Ready(frame);
        }
        let patience = self.patience;
        let idle = (self.idle).get_or_insert_with(|| Box::pin(sleep(patience)));
        ready!(idle.as_mut().poll(cx));
        // As of a connection that was lost: whoever sent so far may go on from there.
        let said = "nothing came for too long: the call was given up";
        Poll::Ready(Some(Err(Status::aborted(said))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;
    use tokio_stream::{StreamExt as _, wrappers::ReceiverStream};

    use super::*;

    /// In place of [`IDLE`].
    const PATIENCE: Duration = Duration::from_millis(600);

    fn paced() -> (mpsc::Sender<usize>, Paced) {
        let (send, frames) = mpsc::channel(1);
        let frames = ReceiverStream::new(frames)
            .map(|length| Ok::<_, Status>(Frame::data(Bytes::from(vec![0; length]))));
        let body = http_body_util::StreamBody::new(frames);
        (send, Paced::new(Body::new(body), PATIENCE))
    }

    #[tokio::test]
    async fn a_request_that_goes_on_slowly_is_not_given_up() {
        let (send, mut body) = paced();
        let sending = tokio::spawn(async move {
            for _ in 0..20 {
                sleep(PATIENCE / 8).await;
                send.send(PACE).await.unwrap();
            }
        });
        let mut bytes = 0;
        while let Some(frame) = body.frame().await {
            bytes += frame.unwrap().into_data().unwrap().len();
        }
        sending.await.unwrap();
        assert_eq!(bytes, 20 * PACE);
    }

    #[tokio::test]
    async fn a_slow_loris_that_sends_a_byte_now_and_then_is_given_up() {
        let (send, mut body) = paced();
        let sending = tokio::spawn(async move {
            while send.send(1).await.is_ok() {
                sleep(PATIENCE / 20).await;
            }
        });
        let status = loop {
            match body.frame().await.expect("no end") {
                Ok(_) => {}
                Err(status) => break status,
            }
        };
        assert_eq!(status.code(), tonic::Code::Aborted);
        drop(body);
        sending.await.unwrap();
    }
}
