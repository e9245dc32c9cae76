//! A connection that ends when what it was made with is replaced: the next one is made with what took its place.

use std::{
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::watch,
};

/// A stream that breaks once `configs`, as it stands now, is replaced.
pub(crate) struct UntilReplaced<S> {
    stream: S,
    /// Gone once it was ready.
    replaced: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl<S> UntilReplaced<S> {
    /// `configs` was looked at before the stream was made with what it held.
    pub(crate) fn new<T: Send + Sync + 'static>(
        stream: S,
        mut configs: watch::Receiver<T>,
    ) -> Self {
        let replaced = async move {
            if configs.changed().await.is_err() {
                std::future::pending().await
            }
        };
        Self {
            stream,
            replaced: Some(Box::pin(replaced)),
        }
    }

    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let over = match &mut self.replaced {
            Some(replaced) => replaced.as_mut().poll(cx).is_ready(),
            None => true,
        };
        if over {
            self.replaced = None;
            return Err(io::Error::new(
                io::ErrorKind::ConnectionReset,
                "this party's certificate or revocation list was replaced",
            ));
        }
        Ok(())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for UntilReplaced<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for UntilReplaced<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn a_stream_carries_bytes_until_what_it_was_made_with_is_replaced() {
        let (near, mut far) = tokio::io::duplex(64);
        let (replace, configs) = watch::channel(1);
        let mut near = UntilReplaced::new(near, configs);
        far.write_all(b"one").await.unwrap();
        let mut bytes = [0; 3];
        near.read_exact(&mut bytes).await.unwrap();
        let waiting = tokio::spawn(async move {
            let first = near.read_u8().await.unwrap_err();
            (first, near.read_u8().await.unwrap_err())
        });
        tokio::task::yield_now().await;
        replace.send_replace(2);
        let (first, again) = waiting.await.unwrap();
        assert_eq!(first.kind(), io::ErrorKind::ConnectionReset);
        assert_eq!(again.kind(), io::ErrorKind::ConnectionReset);
    }

    #[tokio::test]
    async fn where_nobody_can_replace_it_it_goes_on() {
        let (near, mut far) = tokio::io::duplex(64);
        let mut near = UntilReplaced::new(near, watch::channel(1).1);
        far.write_all(b"x").await.unwrap();
        assert_eq!(near.read_u8().await.unwrap(), b'x');
    }
}
