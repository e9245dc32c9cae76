//! A malicious server: the honest one, behind a front that has its certificate and changes, hides or swallows what
//! passes. To the honest server it speaks as the member whose call it forwards.
//!
//! The front has every party's key, so it plays malicious members too: what one of them sends is changed and signed
//! anew on its way to the honest server, as that member could have sent it.

mod lies;
mod tape;

use std::{
    collections::{BTreeMap, HashMap},
    pin::Pin,
    sync::{Arc, Mutex},
};

use ciphertune_identity::{Credentials, SigningKey, tls};
use ciphertune_round::{
    Agreement, Context, Digest, Echo, Envelope, Fingerprint, Object, Parcel, Plan, ShareIndex,
    Signed,
};
use ciphertune_wire::{
    Client, ConnectInfo, Meter, accept, connect,
    limits::{CHUNK_BYTES, MESSAGE_BYTES},
    proto::{self, Event, EventKind, PutSharesRequest, SealedShare, ShareKind, federation_server},
};
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tokio_stream::{Stream, StreamExt as _, wrappers::ReceiverStream};
use tonic::{Request, Response, Status, Streaming, transport::Server};

pub use lies::{Lies, resigned};
pub use tape::{Put, Sent, Tape};

/// The front, serving.
pub struct Front {
    tape: Tape,
    task: JoinHandle<()>,
}

impl std::ops::Deref for Front {
    type Target = Tape;

    fn deref(&self) -> &Tape {
        &self.tape
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What the front needs of the federation.
pub struct Papers {
    /// The server's certificate, and its key.
    pub server: (Credentials, SigningKey),
    /// Every party's.
    pub parties: BTreeMap<Fingerprint, (Credentials, SigningKey)>,
}

/// Serves on `listener` before the honest server at `hidden`.
pub fn stand_before(hidden: String, listener: TcpListener, papers: Papers, lies: Lies) -> Front {
    let tls = tls::server_config(&papers.server.0, &papers.server.1).unwrap();
    let tape = lies.tape();
    let service = Forwarding {
        hidden,
        papers: Arc::new(papers),
        lies: Arc::new(lies),
        clients: Arc::default(),
        relay: Arc::default(),
        plans: Arc::default(),
    };
    // More than any member takes: the limit that is tested is the member's.
    let service = federation_server::FederationServer::new(service)
        .max_decoding_message_size(MESSAGE_BYTES)
        .max_encoding_message_size(4 * MESSAGE_BYTES);
    let task = tokio::spawn(async move {
        let (_keep, tls) = watch::channel(tls);
        let incoming = accept(listener, tls, |_| {});
        let served = Server::builder().add_service(service);
        served.serve_with_incoming(incoming).await.unwrap();
    });
    Front { tape, task }
}

struct Forwarding {
    hidden: String,
    papers: Arc<Papers>,
    lies: Arc<Lies>,
    clients: Arc<tokio::sync::Mutex<HashMap<Fingerprint, Client>>>,
    relay: Arc<Relay>,
    plans: Arc<Mutex<HashMap<Context, Plan>>>,
}

/// What goes from member to member past the honest server.
struct Relay {
    said: Mutex<Vec<Event>>,
    releases: Mutex<Vec<(Fingerprint, PutSharesRequest)>>,
    length: watch::Sender<usize>,
}

impl Default for Relay {
    fn default() -> Self {
        Self {
            said: Mutex::default(),
            releases: Mutex::default(),
            length: watch::channel(0).0,
        }
    }
}

impl Relay {
    fn say(&self, kind: EventKind, envelope: &[u8]) {
        let mut said = self.said.lock().unwrap();
        said.push(Event {
            sequence: 0,
            kind: kind.into(),
            envelope: envelope.to_vec(),
        });
        self.length.send_replace(said.len());
    }

    /// What was said after the first `heard`; waits for it.
    async fn after(&self, heard: usize) -> Event {
        let mut length = self.length.subscribe();
        let _ = length.wait_for(|length| *length > heard).await;
        self.said.lock().unwrap()[heard].clone()
    }
}

fn context(bytes: &[u8]) -> Context {
    Context::from_digest(Digest::parse(bytes).unwrap())
}

type Reply<T> = Result<Response<T>, Status>;
type Replies<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Forwarding {
    /// Who calls, and a connection to the honest server in its name.
    async fn caller<T>(&self, request: &Request<T>) -> Result<(Fingerprint, Client), Status> {
        let certificates = request
            .extensions()
            .get::<ConnectInfo>()
            .and_then(ConnectInfo::peer_certs)
            .ok_or_else(|| Status::unauthenticated("no certificate"))?;
        let caller = tls::peer(&certificates[0])
            .map_err(|error| Status::unauthenticated(error.to_string()))?
            .fingerprint;
        let mut clients = self.clients.lock().await;
        if let Some(client) = clients.get(&caller) {
            return Ok((caller, client.clone()));
        }
        let (credentials, key) = &self.papers.parties[&caller];
        let tls = tls::client_config(credentials, key).unwrap();
        let client = connect(&self.hidden, tls, Meter::default())
            .await
            .map_err(|error| Status::unavailable(error.to_string()))?;
        clients.insert(caller, client.clone());
        Ok((caller, client))
    }

    /// Notes that a member sends something, and says whether it is forwarded.
    fn forwards(&self, caller: &Fingerprint, put: Put) -> bool {
        self.lies.tape.taped().seen.push((*caller, put));
        (self.lies.put)(caller, put)
    }

    fn keep(&self, sent: Sent) {
        self.lies.tape.taped().sent.push(sent);
    }

    /// Keeps a signed object, whose context `of` reads from it.
    fn keep_signed<T: Object>(
        &self,
        (by, put): (Fingerprint, Put),
        bytes: &[u8],
        of: impl FnOnce(&T) -> Context,
    ) {
        let envelope = Envelope::decode(bytes).unwrap();
        self.keep(Sent {
            by,
            put,
            context: of(&T::parse(envelope.payload()).unwrap()),
            offset: 0,
            bytes: bytes.to_vec(),
            shares: Vec::new(),
        });
    }

    /// The key-sum shares for a member of those releases that the front relayed.
    fn relayed_shares(&self, caller: &Fingerprint, context: Context) -> Vec<SealedShare> {
        let plans = self.plans.lock().unwrap();
        let plan = &plans[&context];
        let position = plan.seat_of(caller).map_or(0, ShareIndex::position);
        let releases = self.relay.releases.lock().unwrap();
        releases
            .iter()
            .filter(|(_, release)| release.context == context.as_bytes())
            .filter_map(|(sender, release)| {
                Some(SealedShare {
                    sender: plan.seat_of(sender)?.get().into(),
                    share: release.shares.get(position)?.clone(),
                })
            })
            .collect()
    }
}

impl Forwarding {
    /// A member's parcel with one bit changed, signed again in its name.
    fn garbled(
        &self,
        sender: &Fingerprint,
        chunks: Vec<proto::ParcelChunk>,
    ) -> Vec<proto::ParcelChunk> {
        let envelope = Envelope::decode(&chunks[0].parcel).unwrap();
        let mut sealed: Vec<u8> = chunks.into_iter().flat_map(|chunk| chunk.data).collect();
        let last = sealed.len() - 1;
        sealed[last] ^= 1;
        let parcel = Parcel {
            sealed: Digest::sha256(&sealed),
            ..Parcel::parse(envelope.payload()).unwrap()
        };
        vec![proto::ParcelChunk {
            parcel: Signed::sign(parcel, &self.papers.parties[sender].1).encode(),
            data: sealed.into(),
        }]
    }
}

fn in_chunks(bytes: Vec<u8>, offset: u64) -> Replies<proto::Chunk> {
    let chunks: Vec<_> = bytes[(offset as usize).min(bytes.len())..]
        .chunks(CHUNK_BYTES)
        .map(|data| {
            Ok(proto::Chunk {
                data: data.to_vec().into(),
            })
        })
        .collect();
    Box::pin(tokio_stream::iter(chunks))
}

/// A header or a release with all its shares, as they came in several messages.
async fn whole_shares(
    mut messages: Streaming<PutSharesRequest>,
) -> Result<PutSharesRequest, Status> {
    let first = messages.message().await?;
    let mut whole = first.ok_or_else(|| Status::invalid_argument("no message"))?;
    while let Some(message) = messages.message().await? {
        whole.shares.extend(message.shares);
    }
    Ok(whole)
}

async fn whole(mut chunks: Streaming<proto::Chunk>) -> Result<Vec<u8>, Status> {
    let mut bytes = Vec::new();
    while let Some(chunk) = chunks.message().await? {
        bytes.extend_from_slice(&chunk.data);
    }
    Ok(bytes)
}

#[tonic::async_trait]
impl federation_server::Federation for Forwarding {
    type EventsStream = Replies<Event>;
    type GetSharesStream = Replies<SealedShare>;
    type GetBodyStream = Replies<proto::Chunk>;
    type GetSumStream = Replies<proto::Chunk>;
    type GetParcelStream = Replies<proto::Chunk>;
    type GetLogStream = Replies<proto::Chunk>;
    type GetEvidenceStream = Replies<proto::Chunk>;

    async fn directory(
        &self,
        request: Request<proto::DirectoryRequest>,
    ) -> Reply<proto::DirectoryReply> {
        let (_, mut client) = self.caller(&request).await?;
        client.directory(request.into_inner()).await
    }

    async fn submit_job(
        &self,
        request: Request<proto::SubmitJobRequest>,
    ) -> Reply<proto::SubmitJobReply> {
        let (_, mut client) = self.caller(&request).await?;
        client.submit_job(request.into_inner()).await
    }

    async fn abort_job(
        &self,
        request: Request<proto::AbortJobRequest>,
    ) -> Reply<proto::AbortJobReply> {
        let (_, mut client) = self.caller(&request).await?;
        client.abort_job(request.into_inner()).await
    }

    async fn job_status(
        &self,
        request: Request<proto::JobStatusRequest>,
    ) -> Reply<proto::JobStatusReply> {
        let (_, mut client) = self.caller(&request).await?;
        client.job_status(request.into_inner()).await
    }

    async fn admit(&self, request: Request<proto::AdmitRequest>) -> Reply<proto::AdmitReply> {
        let (caller, mut client) = self.caller(&request).await?;
        if !self.forwards(&caller, Put::Admission) {
            return Ok(Response::new(proto::AdmitReply {}));
        }
        client.admit(request.into_inner()).await
    }

    async fn put_one_time_keys(
        &self,
        request: Request<proto::PutOneTimeKeysRequest>,
    ) -> Reply<proto::PutOneTimeKeysReply> {
        let (caller, mut client) = self.caller(&request).await?;
        let keys = request.get_ref().keys.iter();
        let keys = keys.map(|key| (caller, key.clone()));
        self.lies.tape.taped().keys.extend(keys);
        if !self.forwards(&caller, Put::Keys) {
            return Ok(Response::new(proto::PutOneTimeKeysReply { stock: 8 }));
        }
        client.put_one_time_keys(request.into_inner()).await
    }

    async fn events(&self, request: Request<proto::EventsRequest>) -> Reply<Self::EventsStream> {
        let (caller, mut client) = self.caller(&request).await?;
        // From the start, however much the member has heard: lies are numbered by what was told before them.
        let from_start = proto::EventsRequest { after: 0 };
        let mut arriving = client.events(from_start).await?.into_inner();
        let after = request.into_inner().after;
        let (lies, relay) = (Arc::clone(&self.lies), Arc::clone(&self.relay));
        let plans = Arc::clone(&self.plans);
        let (tell, told) = mpsc::channel(16);
        tokio::spawn(async move {
            let (mut sequence, mut relayed, mut has_roster) = (0, 0, false);
            loop {
                let event = tokio::select! {
                    event = arriving.message() => match event {
                        Ok(Some(event)) => event,
                        Ok(None) => return,
                        Err(status) => {
                            let _ = tell.send(Err(status)).await;
                            return;
                        }
                    },
                    event = relay.after(relayed), if has_roster => {
                        relayed += 1;
                        event
                    }
                    () = tell.closed() => return,
                };
                if event.kind() == EventKind::Plan {
                    let envelope = Envelope::decode(&event.envelope).unwrap();
                    let plan = Plan::parse(envelope.payload()).unwrap();
                    let context = Context::of_plan(envelope.payload());
                    plans.lock().unwrap().insert(context, plan);
                }
                has_roster |= event.kind() == EventKind::Roster;
                let honest = event.sequence;
                for event in (lies.event)(&caller, event) {
                    sequence += 1;
                    let told = Event {
                        sequence: sequence + event.sequence - honest,
                        ..event
                    };
                    if sequence > after && tell.send(Ok(told)).await.is_err() {
                        return;
                    }
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(told))))
    }

    async fn put_shares(
        &self,
        request: Request<Streaming<PutSharesRequest>>,
    ) -> Reply<proto::PutSharesReply> {
        let (caller, mut client) = self.caller(&request).await?;
        let mut request = whole_shares(request.into_inner()).await?;
        let put = match request.kind() {
            ShareKind::KeySum => Put::Release,
            _ => Put::KeyShares,
        };
        self.keep(Sent {
            by: caller,
            put,
            context: context(&request.context),
            offset: 0,
            bytes: request.signed.clone(),
            shares: request.shares.clone(),
        });
        let forwards = self.forwards(&caller, put);
        (self.lies.shares_sent)(&caller, &self.papers.parties[&caller].1, &mut request);
        if self.lies.relays && put == Put::Release {
            let mut releases = self.relay.releases.lock().unwrap();
            releases
                .retain(|(sender, held)| (*sender, &held.context) != (caller, &request.context));
            releases.push((caller, request.clone()));
            drop(releases);
            self.relay.say(EventKind::Release, &request.signed);
            return Ok(Response::new(proto::PutSharesReply {}));
        }
        if !forwards {
            return Ok(Response::new(proto::PutSharesReply {}));
        }
        // All in one message: the server takes that too.
        client.put_shares(tokio_stream::iter([request])).await
    }

    async fn get_shares(
        &self,
        request: Request<proto::GetSharesRequest>,
    ) -> Reply<Self::GetSharesStream> {
        let (caller, mut client) = self.caller(&request).await?;
        let kind = request.get_ref().kind();
        let lies = Arc::clone(&self.lies);
        if self.lies.relays && kind == ShareKind::KeySum {
            let context = context(&request.get_ref().context);
            let shares: Vec<_> = self
                .relayed_shares(&caller, context)
                .into_iter()
                .filter_map(|share| (lies.share)(&caller, kind, share).map(Ok))
                .collect();
            return Ok(Response::new(Box::pin(tokio_stream::iter(shares))));
        }
        let shares = client.get_shares(request.into_inner()).await?.into_inner();
        let told = shares.filter_map(move |share| match share {
            Err(status) => Some(Err(status)),
            Ok(share) => (lies.share)(&caller, kind, share).map(Ok),
        });
        Ok(Response::new(Box::pin(told)))
    }

    async fn put_body(
        &self,
        request: Request<Streaming<proto::BodyChunk>>,
    ) -> Reply<proto::PutBodyReply> {
        let (caller, mut client) = self.caller(&request).await?;
        let forwards = self.forwards(&caller, Put::Body);
        let mut chunks = request.into_inner();
        let (mut named, mut offset, mut body) = (Vec::new(), None, Vec::new());
        while let Ok(Some(chunk)) = chunks.message().await {
            self.keep(Sent {
                by: caller,
                put: Put::Body,
                context: context(&chunk.context),
                offset: chunk.offset,
                bytes: chunk.data.to_vec(),
                shares: Vec::new(),
            });
            offset.get_or_insert(chunk.offset);
            body.extend_from_slice(&chunk.data);
            named = chunk.context;
        }
        if !forwards {
            return Ok(Response::new(proto::PutBodyReply {
                durable: offset.unwrap_or_default() + body.len() as u64,
                complete: true,
            }));
        }
        (self.lies.body_sent)(&caller, &mut body);
        let (mut offset, mut passing) = (offset.unwrap_or_default(), Vec::new());
        for data in body.chunks(CHUNK_BYTES) {
            passing.push(proto::BodyChunk {
                context: named.clone(),
                offset,
                data: data.to_vec().into(),
            });
            offset += data.len() as u64;
        }
        client.put_body(tokio_stream::iter(passing)).await
    }

    async fn body_offset(
        &self,
        request: Request<proto::BodyOffsetRequest>,
    ) -> Reply<proto::PutBodyReply> {
        let (_, mut client) = self.caller(&request).await?;
        client.body_offset(request.into_inner()).await
    }

    async fn get_body(
        &self,
        request: Request<proto::GetBodyRequest>,
    ) -> Reply<Self::GetBodyStream> {
        let (caller, mut client) = self.caller(&request).await?;
        let request = request.into_inner();
        let (offset, seat) = (request.offset, request.seat);
        let from_start = proto::GetBodyRequest {
            offset: 0,
            ..request
        };
        let mut bytes = whole(client.get_body(from_start).await?.into_inner()).await?;
        (self.lies.body)(&caller, seat, &mut bytes);
        Ok(Response::new(in_chunks(bytes, offset)))
    }

    async fn get_sum(&self, request: Request<proto::GetSumRequest>) -> Reply<Self::GetSumStream> {
        let (caller, mut client) = self.caller(&request).await?;
        let request = request.into_inner();
        let offset = request.offset;
        let from_start = proto::GetSumRequest {
            offset: 0,
            ..request
        };
        let mut bytes = whole(client.get_sum(from_start).await?.into_inner()).await?;
        (self.lies.sum)(&caller, &mut bytes);
        Ok(Response::new(in_chunks(bytes, offset)))
    }

    async fn put_echo(
        &self,
        request: Request<proto::PutSignedRequest>,
    ) -> Reply<proto::PutSignedReply> {
        let (caller, mut client) = self.caller(&request).await?;
        let envelope = &request.get_ref().envelope;
        self.keep_signed((caller, Put::Echo), envelope, |said: &Echo| said.context);
        let forwards = self.forwards(&caller, Put::Echo);
        if self.lies.relays {
            self.relay.say(EventKind::Echo, envelope);
        }
        if !forwards || self.lies.relays {
            return Ok(Response::new(proto::PutSignedReply {}));
        }
        client.put_echo(request.into_inner()).await
    }

    async fn put_agreement(
        &self,
        request: Request<proto::PutSignedRequest>,
    ) -> Reply<proto::PutSignedReply> {
        let (caller, mut client) = self.caller(&request).await?;
        let envelope = &request.get_ref().envelope;
        self.keep_signed((caller, Put::Agreement), envelope, |said: &Agreement| {
            said.context
        });
        let forwards = self.forwards(&caller, Put::Agreement);
        if self.lies.relays {
            self.relay.say(EventKind::Agreement, envelope);
        }
        if !forwards || self.lies.relays {
            return Ok(Response::new(proto::PutSignedReply {}));
        }
        client.put_agreement(request.into_inner()).await
    }

    async fn put_parcel_request(
        &self,
        request: Request<proto::PutSignedRequest>,
    ) -> Reply<proto::PutSignedReply> {
        let (caller, mut client) = self.caller(&request).await?;
        if !self.forwards(&caller, Put::ParcelRequest) {
            return Ok(Response::new(proto::PutSignedReply {}));
        }
        client.put_parcel_request(request.into_inner()).await
    }

    async fn put_parcel(
        &self,
        request: Request<Streaming<proto::ParcelChunk>>,
    ) -> Reply<proto::PutParcelReply> {
        let (caller, mut client) = self.caller(&request).await?;
        let forwards = self.forwards(&caller, Put::Parcel);
        let mut chunks = request.into_inner();
        let mut whole = Vec::new();
        while let Some(chunk) = chunks.message().await? {
            whole.push(chunk);
        }
        if !forwards {
            return Ok(Response::new(proto::PutParcelReply {}));
        }
        if self.lies.garbled == Some(caller) {
            whole = self.garbled(&caller, whole);
        }
        client.put_parcel(tokio_stream::iter(whole)).await
    }

    async fn get_log(&self, request: Request<proto::GetLogRequest>) -> Reply<Self::GetLogStream> {
        let (_, mut client) = self.caller(&request).await?;
        let bytes = whole(client.get_log(request.into_inner()).await?.into_inner()).await?;
        Ok(Response::new(in_chunks(bytes, 0)))
    }

    async fn get_evidence(
        &self,
        request: Request<proto::GetEvidenceRequest>,
    ) -> Reply<Self::GetEvidenceStream> {
        let (_, mut client) = self.caller(&request).await?;
        let bytes = whole(
            client
                .get_evidence(request.into_inner())
                .await?
                .into_inner(),
        )
        .await?;
        Ok(Response::new(in_chunks(bytes, 0)))
    }

    async fn get_parcel(
        &self,
        request: Request<proto::GetParcelRequest>,
    ) -> Reply<Self::GetParcelStream> {
        let (caller, mut client) = self.caller(&request).await?;
        let request = request.into_inner();
        let offset = request.offset;
        let from_start = proto::GetParcelRequest {
            offset: 0,
            ..request
        };
        let mut bytes = whole(client.get_parcel(from_start).await?.into_inner()).await?;
        (self.lies.parcel)(&caller, &mut bytes);
        Ok(Response::new(in_chunks(bytes, offset)))
    }
}
