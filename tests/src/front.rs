//! A malicious server: the honest one, behind a front that has its certificate and changes, hides or swallows what
//! passes. To the honest server it speaks as the member whose call it forwards.

use std::{
    collections::{BTreeMap, HashMap},
    pin::Pin,
    sync::{Arc, Mutex},
};

use ciphertune_identity::{SigningKey, tls};
use ciphertune_round::{Digest, Envelope, Fingerprint, Object, Parcel, Signed};
use ciphertune_wire::{
    Client, ConnectInfo, Meter, accept, connect,
    limits::{CHUNK_BYTES, MESSAGE_BYTES},
    proto::{self, Event, EventKind, SealedShare, ShareKind, federation_server},
};
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tokio_stream::{Stream, StreamExt as _, wrappers::ReceiverStream};
use tonic::{Request, Response, Status, Streaming, transport::Server};

/// What members send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Put {
    /// An admission or refusal of a job.
    Admission,
    /// One-time keys.
    Keys,
    /// A header and the shares of a key.
    KeyShares,
    /// A body.
    Body,
    /// An echo.
    Echo,
    /// A release and the shares of the sum of keys.
    Release,
    /// An agreement.
    Agreement,
    /// A request for the model of a round that was missed.
    ParcelRequest,
    /// A parcel.
    Parcel,
}

type OnEvent = dyn Fn(&Fingerprint, Event) -> Option<Event> + Send + Sync;
type OnSum = dyn Fn(&Fingerprint, &mut Vec<u8>) + Send + Sync;
type OnBody = dyn Fn(&Fingerprint, u32, &mut Vec<u8>) + Send + Sync;
type OnShare = dyn Fn(&Fingerprint, ShareKind, SealedShare) -> Option<SealedShare> + Send + Sync;
type OnParcel = dyn Fn(&Fingerprint, &mut Vec<u8>) + Send + Sync;
type OnPut = dyn Fn(&Fingerprint, Put) -> bool + Send + Sync;

/// How the front lies; where nothing is said it forwards.
pub struct Lies {
    event: Box<OnEvent>,
    sum: Box<OnSum>,
    body: Box<OnBody>,
    share: Box<OnShare>,
    parcel: Box<OnParcel>,
    garbled: Option<Fingerprint>,
    put: Box<OnPut>,
}

impl Lies {
    /// None.
    pub fn none() -> Self {
        Self {
            event: Box::new(|_, event| Some(event)),
            sum: Box::new(|_, _| {}),
            body: Box::new(|_, _, _| {}),
            share: Box::new(|_, _, share| Some(share)),
            parcel: Box::new(|_, _| {}),
            garbled: None,
            put: Box::new(|_, _| true),
        }
    }

    /// About an event to a member. `None` hides it, and numbers what follows as if it had never been.
    pub fn about_events(
        mut self,
        lie: impl Fn(&Fingerprint, Event) -> Option<Event> + Send + Sync + 'static,
    ) -> Self {
        self.event = Box::new(lie);
        self
    }

    /// About one kind of signed object: changed, and signed with the server's key.
    pub fn about<T: Object>(
        self,
        kind: EventKind,
        key: SigningKey,
        lie: impl Fn(&mut T) + Send + Sync + 'static,
    ) -> Self {
        self.about_events(move |_, event| {
            if event.kind != i32::from(kind) {
                return Some(event);
            }
            let envelope = Envelope::decode(&event.envelope).unwrap();
            let mut value = T::parse(envelope.payload()).unwrap();
            lie(&mut value);
            Some(Event {
                envelope: Signed::sign(value, &key).encode(),
                ..event
            })
        })
    }

    /// About the sum that a member fetches.
    pub fn about_the_sum(
        mut self,
        lie: impl Fn(&Fingerprint, &mut Vec<u8>) + Send + Sync + 'static,
    ) -> Self {
        self.sum = Box::new(lie);
        self
    }

    /// About the body of a seat that a member fetches.
    pub fn about_bodies(
        mut self,
        lie: impl Fn(&Fingerprint, u32, &mut Vec<u8>) + Send + Sync + 'static,
    ) -> Self {
        self.body = Box::new(lie);
        self
    }

    /// About a share that a member fetches. `None` keeps it back.
    pub fn about_shares(
        mut self,
        lie: impl Fn(&Fingerprint, ShareKind, SealedShare) -> Option<SealedShare>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        self.share = Box::new(lie);
        self
    }

    /// About the parcel that a member fetches.
    pub fn about_parcels(
        mut self,
        lie: impl Fn(&Fingerprint, &mut Vec<u8>) + Send + Sync + 'static,
    ) -> Self {
        self.parcel = Box::new(lie);
        self
    }

    /// With a member that sends garbage for the model that it is asked for, and signs it.
    pub fn with_garbled_parcels_of(mut self, sender: Fingerprint) -> Self {
        self.garbled = Some(sender);
        self
    }

    /// Which of what members send reach the server; the rest is confirmed and swallowed.
    pub fn forwarding(
        mut self,
        forwards: impl Fn(&Fingerprint, Put) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.put = Box::new(forwards);
        self
    }
}

/// The front, serving.
pub struct Front {
    seen: Arc<Mutex<Vec<(Fingerprint, Put)>>>,
    task: JoinHandle<()>,
}

impl Front {
    /// What members sent, in order, whether it was forwarded or not.
    pub fn seen(&self) -> Vec<(Fingerprint, Put)> {
        self.seen.lock().unwrap().clone()
    }

    /// How many times something was sent.
    pub fn count(&self, put: Put) -> usize {
        self.seen().iter().filter(|(_, seen)| *seen == put).count()
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What the front needs of the federation.
pub struct Papers {
    /// The authority's certificate.
    pub ca_pem: String,
    /// The server's own.
    pub cert_pem: String,
    /// Its key.
    pub key: SigningKey,
    /// Every other party's certificate and key.
    pub parties: BTreeMap<Fingerprint, (String, SigningKey)>,
}

/// Serves on `listener` before the honest server at `hidden`.
pub fn stand_before(hidden: String, listener: TcpListener, papers: Papers, lies: Lies) -> Front {
    let tls = tls::server_config(&papers.ca_pem, &papers.cert_pem, &papers.key).unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let service = Forwarding {
        hidden,
        papers: Arc::new(papers),
        lies: Arc::new(lies),
        clients: Arc::default(),
        seen: Arc::clone(&seen),
    };
    let service = federation_server::FederationServer::new(service)
        .max_decoding_message_size(MESSAGE_BYTES)
        .max_encoding_message_size(MESSAGE_BYTES);
    let task = tokio::spawn(async move {
        let (_keep, tls) = watch::channel(tls);
        let incoming = accept(listener, tls, |_| {});
        let served = Server::builder().add_service(service);
        served.serve_with_incoming(incoming).await.unwrap();
    });
    Front { seen, task }
}

struct Forwarding {
    hidden: String,
    papers: Arc<Papers>,
    lies: Arc<Lies>,
    clients: Arc<tokio::sync::Mutex<HashMap<Fingerprint, Client>>>,
    seen: Arc<Mutex<Vec<(Fingerprint, Put)>>>,
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
        let (certificate, key) = &self.papers.parties[&caller];
        let tls = tls::client_config(&self.papers.ca_pem, certificate, key).unwrap();
        let client = connect(&self.hidden, tls, Meter::default())
            .await
            .map_err(|error| Status::unavailable(error.to_string()))?;
        clients.insert(caller, client.clone());
        Ok((caller, client))
    }

    /// Notes what a member sends, and says whether it is forwarded.
    fn forwards(&self, caller: &Fingerprint, put: Put) -> bool {
        self.seen.lock().unwrap().push((*caller, put));
        (self.lies.put)(caller, put)
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
        if !self.forwards(&caller, Put::Keys) {
            return Ok(Response::new(proto::PutOneTimeKeysReply { stock: 8 }));
        }
        client.put_one_time_keys(request.into_inner()).await
    }

    async fn events(&self, request: Request<proto::EventsRequest>) -> Reply<Self::EventsStream> {
        let (caller, mut client) = self.caller(&request).await?;
        let events = client.events(request.into_inner()).await?.into_inner();
        let lies = Arc::clone(&self.lies);
        let mut hidden = 0;
        let told = events.filter_map(move |event| match event {
            Err(status) => Some(Err(status)),
            Ok(event) => match (lies.event)(&caller, event) {
                Some(event) => Some(Ok(Event {
                    sequence: event.sequence - hidden,
                    ..event
                })),
                None => {
                    hidden += 1;
                    None
                }
            },
        });
        Ok(Response::new(Box::pin(told)))
    }

    async fn put_shares(
        &self,
        request: Request<proto::PutSharesRequest>,
    ) -> Reply<proto::PutSharesReply> {
        let (caller, mut client) = self.caller(&request).await?;
        let put = match request.get_ref().kind() {
            ShareKind::KeySum => Put::Release,
            _ => Put::KeyShares,
        };
        if !self.forwards(&caller, put) {
            return Ok(Response::new(proto::PutSharesReply {}));
        }
        client.put_shares(request.into_inner()).await
    }

    async fn get_shares(
        &self,
        request: Request<proto::GetSharesRequest>,
    ) -> Reply<Self::GetSharesStream> {
        let (caller, mut client) = self.caller(&request).await?;
        let kind = request.get_ref().kind();
        let shares = client.get_shares(request.into_inner()).await?.into_inner();
        let lies = Arc::clone(&self.lies);
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
        let (passing, passed) = mpsc::channel(4);
        let reading = tokio::spawn(async move {
            let mut durable = 0;
            while let Ok(Some(chunk)) = chunks.message().await {
                durable = chunk.offset + chunk.data.len() as u64;
                if forwards && passing.send(chunk).await.is_err() {
                    break;
                }
            }
            durable
        });
        if forwards {
            return client.put_body(ReceiverStream::new(passed)).await;
        }
        Ok(Response::new(proto::PutBodyReply {
            durable: reading.await.unwrap_or_default(),
            complete: true,
        }))
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
        if !self.forwards(&caller, Put::Echo) {
            return Ok(Response::new(proto::PutSignedReply {}));
        }
        client.put_echo(request.into_inner()).await
    }

    async fn put_agreement(
        &self,
        request: Request<proto::PutSignedRequest>,
    ) -> Reply<proto::PutSignedReply> {
        let (caller, mut client) = self.caller(&request).await?;
        if !self.forwards(&caller, Put::Agreement) {
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
