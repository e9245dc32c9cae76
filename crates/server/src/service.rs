//! The service: authenticates the peer, translates, calls, translates.

use std::{sync::Arc, time::Duration};

use ciphertune_identity::{Peer, Role, tls};
use ciphertune_policy::Instant;
use ciphertune_round::{
    Abort, Admission, Agreement, Context, Digest, Echo, Envelope, Fingerprint, Header, Object,
    OneTimeKeyOffer, Parcel, ParcelRequest, Release, Signed,
};
use ciphertune_wire::{ConnectInfo, Refusal, limits::KEYS_A_CALL, proto};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::{
    coordinator::Coordinator,
    download,
    error::{Error, Refused, Result, fault},
    events::{Following, together},
    phase::{Input, Shares},
    shares, upload,
    uploads::Uploads,
};

type Reply<T> = std::result::Result<Response<T>, Status>;
type Stream<T> = ReceiverStream<std::result::Result<T, Status>>;

/// The federation's service.
pub struct Service {
    coordinator: Arc<Coordinator>,
    uploads: Arc<Uploads>,
}

/// How long an open stream may go on before its caller's certificate is looked at again.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// Who calls.
struct Caller {
    fingerprint: Fingerprint,
    role: Role,
    peer: Peer,
    /// Its certificate, DER.
    certificate: Vec<u8>,
}

impl Service {
    /// A service for these jobs.
    pub fn new(coordinator: Arc<Coordinator>) -> Self {
        Self {
            coordinator,
            uploads: Arc::default(),
        }
    }

    /// For work that does not end with its call.
    fn shared(&self) -> (Arc<Coordinator>, Arc<Uploads>) {
        (Arc::clone(&self.coordinator), Arc::clone(&self.uploads))
    }

    /// The party behind a request: its certificate must hold now and not be revoked, its key be in the manifest, in the
    /// certificate's role.
    fn caller<T>(&self, request: &Request<T>) -> Result<Caller, Refused> {
        let stranger = |detail: &str| Refused::new(Refusal::Stranger, detail);
        let certificates = request
            .extensions()
            .get::<ConnectInfo>()
            .and_then(ConnectInfo::peer_certs)
            .ok_or_else(|| stranger("no certificate"))?;
        let der = certificates
            .first()
            .ok_or_else(|| stranger("no certificate"))?;
        let peer = tls::peer(der).map_err(|error| stranger(&error.to_string()))?;
        let now = self.coordinator.now().to_system();
        self.coordinator.gate().admit(&peer, now)?;
        let party = self
            .coordinator
            .federation()
            .manifest()
            .party_as(&peer.fingerprint, peer.role)
            .ok_or_else(|| {
                stranger(&format!(
                    "{} ({}) is not in the manifest",
                    peer.name, peer.role
                ))
            })?;
        let issued = Instant::from_seconds(peer.issued_at).unwrap_or(Instant::EPOCH);
        self.coordinator
            .federation()
            .policy()
            .admit_certificate(issued, now.into())
            .map_err(|refusal| {
                Refused::new(Refusal::Expired, format!("{}: {refusal}", peer.name))
            })?;
        Ok(Caller {
            fingerprint: peer.fingerprint,
            role: party.role,
            peer,
            certificate: der.to_vec(),
        })
    }

    fn caller_as<T>(&self, request: &Request<T>, role: Role) -> Result<Caller, Refused> {
        let caller = self.caller(request)?;
        if caller.role != role {
            return Err(Refused::new(
                Refusal::Role,
                format!(
                    "{} called what is for {}",
                    caller.role.with_article(),
                    role.with_article()
                ),
            ));
        }
        Ok(caller)
    }

    /// The caller, whom the policy lets read the log.
    fn log_reader<T>(&self, request: &Request<T>) -> Result<Caller, Refused> {
        let caller = self.caller(request)?;
        let federation = self.coordinator.federation();
        let role = federation
            .role_of(&caller.fingerprint)
            .ok_or_else(|| Refused::new(Refusal::Stranger, "not in the manifest"))?;
        (federation.policy().admit_log_reader(role))
            .map_err(|violation| Refused::new(Refusal::Role, violation.to_string()))?;
        Ok(caller)
    }

    /// A signed object of the caller's own.
    fn own<T: Object>(&self, caller: &Caller, bytes: &[u8]) -> Result<Signed<T>, Refused> {
        let manifest: &ciphertune_identity::Manifest = self.coordinator.federation().manifest();
        let signed = Signed::<T>::decode(bytes, manifest).map_err(Refused::malformed)?;
        if signed.signer() != caller.fingerprint {
            return Err(Refused::malformed("signed by another than the caller"));
        }
        Ok(signed)
    }

    async fn feed_signed<T: Object>(
        &self,
        request: Request<proto::PutSignedRequest>,
        input: impl FnOnce(Signed<T>) -> (Context, Input),
    ) -> Result<proto::PutSignedReply> {
        let caller = self.caller_as(&request, Role::Member)?;
        let (context, input) = input(self.own(&caller, &request.get_ref().envelope)?);
        self.coordinator.feed_context(&context, input).await?;
        Ok(proto::PutSignedReply {})
    }

    async fn take_shares(
        &self,
        request: Request<Streaming<proto::PutSharesRequest>>,
    ) -> Result<proto::PutSharesReply> {
        let caller = self.caller_as(&request, Role::Member)?;
        let mut messages = request.into_inner();
        let first = messages.message().await.ok().flatten();
        let first = first.ok_or_else(|| Refused::malformed("shares without a message"))?;
        let announced = match shares::kind(first.kind())? {
            Shares::Key => self.own::<Header>(&caller, &first.signed)?.into(),
            Shares::KeySum => self.own::<Release>(&caller, &first.signed)?.into(),
        };
        let (coordinator, uploads) = self.shared();
        to_its_end(
            async move { shares::take(&coordinator, &uploads, announced, first, messages).await },
        )
        .await
    }

    async fn take_keys(&self, request: Request<proto::PutOneTimeKeysRequest>) -> Result<u32> {
        let caller = self.caller_as(&request, Role::Member)?;
        let keys = &request.get_ref().keys;
        if keys.len() > KEYS_A_CALL {
            return Err(Refused::new(Refusal::TooLarge, "too many keys in one call").into());
        }
        let mut offers: Vec<Envelope> = Vec::with_capacity(keys.len());
        for key in keys {
            let offer: Signed<OneTimeKeyOffer> = self.own(&caller, key)?;
            if offer.member != caller.fingerprint {
                return Err(Refused::malformed("a one-time key for another member").into());
            }
            offers.push(offer.envelope().clone());
        }
        self.coordinator
            .add_keys(&caller.fingerprint, &offers)
            .await
    }

    fn follow(&self, request: &Request<proto::EventsRequest>) -> Result<Following, Refused> {
        let caller = self.caller(request)?;
        let mut after = request.get_ref().after;
        let coordinator = Arc::clone(&self.coordinator);
        let (out, stream) = mpsc::channel(2);
        tokio::spawn(async move {
            // From here on a revocation finds what this party has sent.
            if let Err(error) = coordinator.meet(&caller.peer, &caller.certificate).await {
                let _ = out.send(Err(status(&error))).await;
                return;
            }
            let _present = coordinator.presence().enter(caller.peer.clone());
            let (mut announced, mut closing) = (coordinator.announced(), coordinator.closing());
            let mut gate = coordinator.gate().changes();
            loop {
                announced.borrow_and_update();
                gate.borrow_and_update();
                let now = coordinator.now().to_system();
                if let Err(refused) = coordinator.gate().admit(&caller.peer, now) {
                    let _ = out.try_send(Err(status(&refused.into())));
                    return;
                }
                let events = match coordinator.events_after(after).await {
                    Ok(events) => events,
                    Err(error) => {
                        let _ = out.send(Err(status(&error))).await;
                        return;
                    }
                };
                if !events.is_empty() {
                    for event in together(events) {
                        let sequence = event.sequence;
                        // A caller that does not read must not outlast its certificate.
                        tokio::select! {
                            sent = out.send(Ok(event)) => match sent {
                                Ok(()) => after = sequence,
                                Err(_) => return,
                            },
                            changed = gate.changed() => match changed {
                                Ok(()) => break,
                                Err(_) => return,
                            },
                        }
                    }
                    // What is announced meanwhile goes out together.
                    tokio::time::sleep(coordinator.presence().pause()).await;
                    continue;
                }
                tokio::select! {
                    changed = announced.changed() => if changed.is_err() { return },
                    changed = gate.changed() => if changed.is_err() { return },
                    () = tokio::time::sleep(LOOK_AGAIN) => {}
                    () = out.closed() => return,
                    () = until(&mut closing) => {
                        let _ = out.send(Err(Refusal::Closing.into())).await;
                        return;
                    }
                }
            }
        });
        Ok(Following::new(stream))
    }
}

#[tonic::async_trait]
impl proto::federation_server::Federation for Service {
    type EventsStream = tokio_stream::Empty<std::result::Result<proto::Event, Status>>;
    type GetSharesStream = Stream<proto::SealedShare>;
    type GetBodyStream = Stream<proto::Chunk>;
    type GetSumStream = Stream<proto::Chunk>;
    type GetParcelStream = Stream<proto::Chunk>;
    type GetLogStream = Stream<proto::Chunk>;
    type GetEvidenceStream = Stream<proto::Chunk>;

    async fn directory(
        &self,
        request: Request<proto::DirectoryRequest>,
    ) -> Reply<proto::DirectoryReply> {
        answer(async {
            self.caller(&request)?;
            Ok(proto::DirectoryReply {
                manifest: self.coordinator.federation().manifest().encode(),
                checkpoint: self.coordinator.checkpoint().await?,
                revocations: self.coordinator.gate().list_pem(),
            })
        })
        .await
    }

    async fn submit_job(
        &self,
        request: Request<proto::SubmitJobRequest>,
    ) -> Reply<proto::SubmitJobReply> {
        answer(async {
            let caller = self.caller(&request)?;
            let federation = self.coordinator.federation();
            if !federation.may_submit(&caller.fingerprint) {
                let detail = format!("roles.submit_job does not name a {}", caller.role);
                return Err(Refused::new(Refusal::Role, detail).into());
            }
            let job = self.own(&caller, &request.get_ref().job)?;
            // From here on a revocation finds this party's jobs.
            let (peer, certificate) = (&caller.peer, &caller.certificate);
            self.coordinator.meet(peer, certificate).await?;
            let digest = self.coordinator.submit(job).await?;
            Ok(proto::SubmitJobReply {
                job: digest.as_bytes().to_vec(),
            })
        })
        .await
    }

    async fn abort_job(
        &self,
        request: Request<proto::AbortJobRequest>,
    ) -> Reply<proto::AbortJobReply> {
        answer(async {
            let caller = self.caller(&request)?;
            let abort: Signed<Abort> = self.own(&caller, &request.get_ref().abort)?;
            let job = abort.job;
            self.coordinator.feed(&job, Input::Abort(abort)).await?;
            Ok(proto::AbortJobReply {})
        })
        .await
    }

    async fn job_status(
        &self,
        request: Request<proto::JobStatusRequest>,
    ) -> Reply<proto::JobStatusReply> {
        answer(async {
            self.caller(&request)?;
            let job = match request.get_ref().job.as_slice() {
                [] => None,
                bytes => Some(Digest::parse(bytes).map_err(Refused::malformed)?),
            };
            Ok(proto::JobStatusReply {
                jobs: self.coordinator.status(job.as_ref()).await?,
            })
        })
        .await
    }

    async fn admit(&self, request: Request<proto::AdmitRequest>) -> Reply<proto::AdmitReply> {
        answer(async {
            let caller = self.caller_as(&request, Role::Member)?;
            let admission: Signed<Admission> = self.own(&caller, &request.get_ref().admission)?;
            let job = admission.job;
            self.coordinator
                .feed(&job, Input::Admission(admission))
                .await?;
            Ok(proto::AdmitReply {})
        })
        .await
    }

    async fn put_one_time_keys(
        &self,
        request: Request<proto::PutOneTimeKeysRequest>,
    ) -> Reply<proto::PutOneTimeKeysReply> {
        answer(async {
            Ok(proto::PutOneTimeKeysReply {
                stock: self.take_keys(request).await?,
            })
        })
        .await
    }

    async fn events(&self, request: Request<proto::EventsRequest>) -> Reply<Self::EventsStream> {
        // The layer below puts what follows in the place of the empty body.
        let mut reply = answer(async {
            let following = self.follow(&request)?;
            Ok((tokio_stream::empty(), following))
        })
        .await?;
        let following = reply.get_ref().1.clone();
        reply.extensions_mut().insert(following);
        Ok(reply.map(|(nothing, _)| nothing))
    }

    async fn put_shares(
        &self,
        request: Request<Streaming<proto::PutSharesRequest>>,
    ) -> Reply<proto::PutSharesReply> {
        answer(self.take_shares(request)).await
    }

    async fn get_shares(
        &self,
        request: Request<proto::GetSharesRequest>,
    ) -> Reply<Self::GetSharesStream> {
        answer(async {
            let caller = self.caller_as(&request, Role::Member)?;
            let request = request.get_ref();
            let (context, kind) = (context(&request.context)?, shares::kind(request.kind())?);
            shares::hand_out(&self.coordinator, context, &caller.fingerprint, kind).await
        })
        .await
    }

    async fn put_body(
        &self,
        request: Request<Streaming<proto::BodyChunk>>,
    ) -> Reply<proto::PutBodyReply> {
        answer(async {
            let caller = self.caller_as(&request, Role::Member)?;
            let (coordinator, uploads) = self.shared();
            let chunks = request.into_inner();
            to_its_end(async move {
                upload::take(&coordinator, &uploads, caller.fingerprint, chunks).await
            })
            .await
        })
        .await
    }

    async fn body_offset(
        &self,
        request: Request<proto::BodyOffsetRequest>,
    ) -> Reply<proto::PutBodyReply> {
        answer(async {
            let caller = self.caller_as(&request, Role::Member)?;
            let context = context(&request.get_ref().context)?;
            let (coordinator, uploads) = self.shared();
            to_its_end(async move {
                upload::ask(&coordinator, &uploads, context, &caller.fingerprint).await
            })
            .await
        })
        .await
    }

    async fn get_body(
        &self,
        request: Request<proto::GetBodyRequest>,
    ) -> Reply<Self::GetBodyStream> {
        answer(async {
            let caller = self.caller_as(&request, Role::Member)?;
            let request = request.get_ref();
            let context = context(&request.context)?;
            download::body(
                &self.coordinator,
                context,
                &caller.fingerprint,
                request.seat,
                request.offset,
            )
            .await
        })
        .await
    }

    async fn get_sum(&self, request: Request<proto::GetSumRequest>) -> Reply<Self::GetSumStream> {
        answer(async {
            let caller = self.caller_as(&request, Role::Member)?;
            let request = request.get_ref();
            let context = context(&request.context)?;
            download::sum(
                &self.coordinator,
                context,
                &caller.fingerprint,
                request.offset,
            )
            .await
        })
        .await
    }

    async fn put_echo(
        &self,
        request: Request<proto::PutSignedRequest>,
    ) -> Reply<proto::PutSignedReply> {
        answer(self.feed_signed(request, |echo: Signed<Echo>| {
            (echo.context, Input::Echo(echo))
        }))
        .await
    }

    async fn put_parcel_request(
        &self,
        request: Request<proto::PutSignedRequest>,
    ) -> Reply<proto::PutSignedReply> {
        answer(self.feed_signed(request, |asked: Signed<ParcelRequest>| {
            (asked.context, Input::ParcelRequest(asked))
        }))
        .await
    }

    async fn put_parcel(
        &self,
        request: Request<Streaming<proto::ParcelChunk>>,
    ) -> Reply<proto::PutParcelReply> {
        answer(async {
            let caller = self.caller_as(&request, Role::Member)?;
            let mut chunks = request.into_inner();
            let first = chunks.message().await.ok().flatten();
            let first = first.ok_or_else(|| Refused::malformed("a parcel without a chunk"))?;
            let parcel: Signed<Parcel> = self.own(&caller, &first.parcel)?;
            let (coordinator, uploads) = self.shared();
            to_its_end(async move {
                upload::take_parcel(&coordinator, &uploads, parcel, first, chunks).await
            })
            .await
        })
        .await
    }

    async fn get_parcel(
        &self,
        request: Request<proto::GetParcelRequest>,
    ) -> Reply<Self::GetParcelStream> {
        answer(async {
            let caller = self.caller_as(&request, Role::Member)?;
            let request = request.get_ref();
            let context = context(&request.context)?;
            download::parcel(
                &self.coordinator,
                context,
                &caller.fingerprint,
                request.offset,
            )
            .await
        })
        .await
    }

    async fn get_log(&self, request: Request<proto::GetLogRequest>) -> Reply<Self::GetLogStream> {
        answer(async {
            self.log_reader(&request)?;
            download::log(&self.coordinator, request.get_ref().offset).await
        })
        .await
    }

    async fn get_evidence(
        &self,
        request: Request<proto::GetEvidenceRequest>,
    ) -> Reply<Self::GetEvidenceStream> {
        answer(async {
            self.log_reader(&request)?;
            download::evidence(&self.coordinator, &request.get_ref().name).await
        })
        .await
    }

    async fn put_agreement(
        &self,
        request: Request<proto::PutSignedRequest>,
    ) -> Reply<proto::PutSignedReply> {
        answer(self.feed_signed(request, |agreement: Signed<Agreement>| {
            (agreement.context, Input::Agreement(agreement))
        }))
        .await
    }
}

/// The context that a peer names.
pub(crate) fn context(bytes: &[u8]) -> Result<Context, Refused> {
    Digest::parse(bytes)
        .map(Context::from_digest)
        .map_err(Refused::malformed)
}

/// What the peer is told; the detail goes to our log.
pub(crate) fn status(error: &Error) -> Status {
    match error {
        Error::Refused(refused) => tracing::info!(%refused, "call refused"),
        error => tracing::error!(%error, "call failed"),
    }
    error.code().into()
}

async fn answer<T>(work: impl Future<Output = Result<T>>) -> Reply<T> {
    work.await
        .map(Response::new)
        .map_err(|error| status(&error))
}

/// Carries an upload to its end when its connection breaks, which drops the call: its stream has ended then, what came is made
/// durable, and a body that is whole by then is handed over. Half a write would be behind the next connection's first one.
async fn to_its_end<T: Send + 'static>(
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    tokio::spawn(work)
        .await
        .unwrap_or_else(|error| Err(fault("an upload", error)))
}

async fn until(closing: &mut tokio::sync::watch::Receiver<bool>) {
    let _ = closing.wait_for(|closing| *closing).await;
}
