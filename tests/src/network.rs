//! A bad network before the server: a TCP proxy that reads nothing of what it carries (it is TLS) and delays, stalls and cuts it.
//!
//! *Loss.* A proxy cannot lose a segment: TCP would have sent it again. What an application sees of a loss is a stall while
//! that happens, of everything behind it: a retransmission time-out, max(200 ms, 2 RTT). Here each flight of up to 32 KiB
//! (some 23 segments of 1,400 bytes: what a window holds at a time) suffers one with the link's probability. Losses within one
//! flight are repaired together, as selective acknowledgements do, so this is kinder than independent losses of 5 % of segments to
//! plain Reno, which would get some 80 KB/s (Mathis et al. 1997) and take the test a quarter of an hour, and as unkind in what
//! matters: everything halts, and halts again.
//!
//! Draws come from a seed, the connection's number and the direction; when they fall depends on the machine, too.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::{Notify, mpsc},
    task::JoinHandle,
    time::{Instant, sleep_until},
};

/// Bytes that are carried, and stall, together.
const FLIGHT: usize = 32 << 10;

/// Flights on their way in one direction: with 50 ms, 10 MB a second.
const ON_THE_WAY: usize = 16;

/// What the sockets of the proxy hold: what a cut loses is this, and what is on its way.
const BUFFER: usize = 256 << 10;

/// What a connection's way is like, the same in both directions.
#[derive(Clone, Copy, Debug, Default)]
pub struct Link {
    /// Each way.
    pub latency: Duration,
    /// Of flights, in a thousand.
    pub loss: u64,
    /// Bytes a second; 0: without a limit.
    pub bandwidth: u64,
    /// The connection is reset after so many bytes, both directions together; 0: never.
    pub cut_after: u64,
    /// Nothing is carried any more after so many bytes up, and nobody is told; 0: never.
    pub vanishes_after: u64,
}

impl Link {
    /// 50 ms each way, one flight in twenty lost, a cut every 10 MB.
    pub fn bad() -> Self {
        Self {
            latency: Duration::from_millis(50),
            loss: 50,
            cut_after: 10_000_000,
            ..Self::default()
        }
    }

    /// So many bytes a second.
    pub fn slow(bandwidth: u64) -> Self {
        Self {
            latency: Duration::from_millis(50),
            bandwidth,
            ..Self::default()
        }
    }

    /// Good, until it carries nothing.
    pub fn vanishing(vanishes_after: u64) -> Self {
        Self {
            vanishes_after,
            ..Self::default()
        }
    }

    fn stall(&self) -> Duration {
        Duration::from_millis(200).max(4 * self.latency)
    }
}

/// A network that carries.
pub struct Network {
    state: Arc<State>,
    task: JoinHandle<()>,
}

struct State {
    usual: Link,
    /// For the next connections, one each.
    next: Mutex<VecDeque<Link>>,
    seed: u64,
    connections: AtomicU64,
    carried: Carried,
    cuts: Mutex<Vec<(u64, u64)>>,
}

/// Bytes, up and down.
#[derive(Default)]
struct Carried {
    up: AtomicU64,
    down: AtomicU64,
}

impl Carried {
    fn both(&self) -> (u64, u64) {
        let read = |count: &AtomicU64| count.load(Ordering::SeqCst);
        (read(&self.up), read(&self.down))
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Network {
    /// Carries between whom `listener` accepts and the server at `hidden`, on a link like `usual`.
    pub fn open(hidden: String, listener: TcpListener, usual: Link, seed: u64) -> Self {
        // What is accepted inherits it.
        SockRef::from(&listener)
            .set_recv_buffer_size(BUFFER)
            .unwrap();
        let state = Arc::new(State {
            usual,
            next: Mutex::default(),
            seed,
            connections: AtomicU64::new(0),
            carried: Carried::default(),
            cuts: Mutex::default(),
        });
        let carrying = Arc::clone(&state);
        let task = tokio::spawn(async move {
            loop {
                let (near, _) = listener.accept().await.unwrap();
                let (state, hidden) = (Arc::clone(&carrying), hidden.clone());
                let number = state.connections.fetch_add(1, Ordering::SeqCst);
                let link = state.next.lock().unwrap().pop_front();
                tokio::spawn(async move {
                    // One that breaks is a party, or a server, that left.
                    if let Ok(far) = TcpStream::connect(hidden).await {
                        state
                            .carry(link.unwrap_or(state.usual), number, near, far)
                            .await;
                    }
                });
            }
        });
        Self { state, task }
    }

    /// The next connection has another link.
    pub fn next(&self, link: Link) {
        self.state.next.lock().unwrap().push_back(link);
    }

    /// Connections so far.
    pub fn connections(&self) -> u64 {
        self.state.connections.load(Ordering::SeqCst)
    }

    /// Bytes that came from members, and from the server.
    pub fn carried(&self) -> (u64, u64) {
        self.state.carried.both()
    }

    /// Each connection that was cut, with the bytes that it had carried up and down.
    pub fn cuts(&self) -> Vec<(u64, u64)> {
        self.state.cuts.lock().unwrap().clone()
    }
}

impl State {
    async fn carry(&self, link: Link, number: u64, near: TcpStream, far: TcpStream) {
        for stream in [&near, &far] {
            let _ = stream.set_nodelay(true);
            let socket = SockRef::from(stream);
            let _ = socket.set_send_buffer_size(BUFFER);
            if link.cut_after > 0 {
                let _ = socket.set_linger(Some(Duration::ZERO)); // a reset
            }
        }
        let (own, over) = (Carried::default(), Notify::new());
        let (near_in, near_out) = near.into_split();
        let (far_in, far_out) = far.into_split();
        let seed = self.seed ^ (number << 1);
        let way = |up: bool| Way {
            link,
            draws: Draws(seed ^ u64::from(up)),
            counts: match up {
                true => [&own.up, &self.carried.up],
                false => [&own.down, &self.carried.down],
            },
            own: &own,
            over: &over,
        };
        let both = async {
            tokio::join!(
                way(true).carry(near_in, far_out),
                way(false).carry(far_in, near_out)
            )
        };
        tokio::select! {
            _ = both => {}
            () = over.notified() => self.cuts.lock().unwrap().push(own.both()),
        }
    }
}

/// One direction.
struct Way<'a> {
    link: Link,
    draws: Draws,
    counts: [&'a AtomicU64; 2],
    own: &'a Carried,
    over: &'a Notify,
}

impl Way<'_> {
    async fn carry(mut self, mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) {
        let (depart, mut arriving) = mpsc::channel::<(Instant, Vec<u8>)>(ON_THE_WAY);
        let departing = async move {
            let mut free = Instant::now();
            let mut flight = vec![0; FLIGHT];
            while let Ok(length @ 1..) = from.read(&mut flight).await {
                for count in self.counts {
                    count.fetch_add(length as u64, Ordering::SeqCst);
                }
                let (up, down) = self.own.both();
                if self.link.vanishes_after > 0 && up > self.link.vanishes_after {
                    std::future::pending::<()>().await;
                }
                if self.link.cut_after > 0 && up + down > self.link.cut_after {
                    self.over.notify_one();
                }
                free = free.max(Instant::now());
                if self.draws.next() % 1_000 < self.link.loss {
                    free += self.link.stall();
                }
                if self.link.bandwidth > 0 {
                    free += Duration::from_secs_f64(length as f64 / self.link.bandwidth as f64);
                }
                let sent = depart.send((free + self.link.latency, flight[..length].to_vec()));
                if sent.await.is_err() {
                    return;
                }
            }
        };
        let arrives = async move {
            while let Some((due, flight)) = arriving.recv().await {
                sleep_until(due).await;
                if to.write_all(&flight).await.is_err() {
                    return;
                }
            }
            let _ = to.shutdown().await;
        };
        tokio::join!(departing, arrives);
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014).
struct Draws(u64);

impl Draws {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn echoed(link: Link) -> (Network, TcpStream) {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let hidden = server.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = server.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = stream.split();
                    let _ = tokio::io::copy(&mut from, &mut to).await;
                });
            }
        });
        let public = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = public.local_addr().unwrap();
        let network = Network::open(hidden, public, link, 1);
        (network, TcpStream::connect(address).await.unwrap())
    }

    #[tokio::test]
    async fn bytes_come_through_unchanged_and_late() {
        let link = Link {
            cut_after: 0,
            ..Link::bad()
        };
        let (network, mut stream) = echoed(link).await;
        let (begun, sent) = (Instant::now(), vec![7; 100_000]);
        stream.write_all(&sent).await.unwrap();
        let mut back = vec![0; sent.len()];
        stream.read_exact(&mut back).await.unwrap();
        assert!(back == sent && begun.elapsed() >= Duration::from_millis(100));
        assert_eq!(network.carried(), (100_000, 100_000));
    }

    #[tokio::test]
    async fn a_connection_is_cut_after_its_bytes() {
        let link = Link {
            cut_after: 200_000,
            ..Link::default()
        };
        let (network, stream) = echoed(link).await;
        let (mut from, mut to) = stream.into_split();
        let sending =
            tokio::spawn(async move { while to.write_all(&[1; 10_000]).await.is_ok() {} });
        let mut bytes = vec![0; 10_000];
        while let Ok(1..) = from.read(&mut bytes).await {}
        sending.await.unwrap();
        let cuts = network.cuts();
        assert!(
            cuts.len() == 1 && cuts[0].0 + cuts[0].1 > 200_000,
            "{cuts:?}"
        );
    }
}
