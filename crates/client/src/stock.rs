//! A member's stock of one-time sealing keys: private halves at home, public halves at the server, each used in one
//! context and erased when that ends.

use std::path::PathBuf;

use ciphertune_gauss::Entropy;
use ciphertune_round::{Context, OneTimeKeyOffer, Signed, Signer};
use ciphertune_seal::OneTimeKey;
use ciphertune_wire::{Client, proto};
use zeroize::Zeroizing;

use crate::{
    durable,
    error::{Error, Result},
};

/// Keys that a member starts with at the server. Each that a plan uses is replaced.
pub const FIRST_KEYS: u64 = 8;

/// The stock, a folder of files `SERIAL.key` for their owner alone.
pub struct Stock {
    folder: PathBuf,
}

impl Stock {
    /// Opens, or starts, the stock in a folder.
    pub fn open(folder: PathBuf) -> Result<Self> {
        durable::folder(&folder)?;
        Ok(Self { folder })
    }

    /// Makes keys, keeps their private halves durably, and gives the signed public halves to the server.
    pub async fn refill(
        &self,
        client: &mut Client,
        signer: &dyn Signer,
        count: u64,
    ) -> Result<u32> {
        let mut keys = Vec::new();
        let mut serial = self.reserve_serials(count)?;
        for _ in 0..count {
            serial += 1;
            let mut entropy = Entropy::from_os().map_err(|error| Error::fault("entropy", error))?;
            let key = OneTimeKey::generate(&mut entropy)?;
            durable::write(&self.path(serial), &key.store_bytes())?;
            let offer = OneTimeKeyOffer {
                member: signer.verifying_key().fingerprint(),
                serial,
                public_key: key.public(),
            };
            keys.push(Signed::sign(offer, signer).encode());
        }
        let reply = client
            .put_one_time_keys(proto::PutOneTimeKeysRequest { keys })
            .await?;
        Ok(reply.into_inner().stock)
    }

    /// The private half for an offer that a plan names.
    ///
    /// # Errors
    /// [`Error::Refused`] if it was used and erased, or never made here.
    pub fn take(&self, offer: &OneTimeKeyOffer) -> Result<OneTimeKey> {
        let bytes = durable::read(&self.path(offer.serial))?
            .map(Zeroizing::new)
            .ok_or_else(|| {
                Error::Refused(format!(
                    "the plan names one-time key {}, which was used before and is erased",
                    offer.serial
                ))
            })?;
        let key = OneTimeKey::from_stored(&bytes)?;
        if key.public() != offer.public_key {
            return Err(Error::Refused(format!(
                "the plan's one-time key {} is not the one made here",
                offer.serial
            )));
        }
        Ok(key)
    }

    /// Binds a key to the one context that it may be used in, durably, before anything is sent in that context.
    ///
    /// # Errors
    /// As [`Stock::take`]; [`Error::Refused`] if it was bound to another context.
    pub fn bind(&self, offer: &OneTimeKeyOffer, context: Context) -> Result<()> {
        drop(self.take(offer)?);
        let path = self.folder.join(format!("{}.context", offer.serial));
        durable::once(
            &path,
            &context.digest(),
            "the plan names a one-time key that another plan named before",
        )
    }

    /// Erases the private half at the end of its context: overwritten, synced, removed. (A file system that copies on
    /// write, or a flash disk, may keep the old block: SECURITY.md.)
    pub fn erase(&self, offer: &OneTimeKeyOffer) -> Result<()> {
        durable::erase(&self.path(offer.serial))
    }

    /// Takes the next serial numbers; returns the last one taken before. Its file survives every erasure.
    fn reserve_serials(&self, count: u64) -> Result<u64> {
        let mark = self.folder.join("last");
        let last = match durable::read(&mark)? {
            Some(bytes) => String::from_utf8_lossy(&bytes)
                .trim()
                .parse::<u64>()
                .map_err(|error| Error::malformed(mark.display().to_string(), error))?,
            None => 0,
        };
        durable::write(&mark, (last + count).to_string().as_bytes())?;
        Ok(last)
    }

    fn path(&self, serial: u64) -> PathBuf {
        self.folder.join(format!("{serial}.key"))
    }
}
