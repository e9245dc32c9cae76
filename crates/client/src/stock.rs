//! A member's stock of one-time sealing keys: private halves at home, public halves at the server, each used in one
//! context and erased when that ends.

use std::path::PathBuf;

use ciphertune_gauss::Entropy;
use ciphertune_round::{Context, OneTimeKeyOffer, Signed, Signer};
use ciphertune_seal::OneTimeKey;
use ciphertune_wire::{Client, proto};
use zeroize::Zeroizing;

use crate::{
    disk::{self, Disk},
    error::{Error, Result},
};

/// Keys that a member keeps at the server. Each that a plan uses is replaced.
pub const FIRST_KEYS: u64 = 8;

/// The stock, a folder of files `SERIAL.key` for their owner alone.
pub struct Stock {
    folder: PathBuf,
    disk: Disk,
}

impl Stock {
    /// Opens, or starts, the stock in a folder.
    pub fn open(folder: PathBuf, disk: Disk) -> Result<Self> {
        disk.folder(&folder)?;
        for path in disk::files(&folder)? {
            // A crash in mid-write: perhaps a key, which nobody will ever ask for.
            if disk::is_temporary(&path) {
                disk.erase(&path)?;
            }
        }
        Ok(Self { folder, disk })
    }

    /// Offers the keys of an earlier life that no plan has named yet, most recent first: a crash may have kept them
    /// from the server. It passes over those that it had.
    pub async fn offer_again(&self, client: &mut Client, signer: &dyn Signer) -> Result<()> {
        let mut serials: Vec<u64> = disk::files(&self.folder)?
            .iter()
            .filter(|path| path.extension().is_some_and(|extension| extension == "key"))
            .filter_map(|path| path.file_stem()?.to_str()?.parse().ok())
            .filter(|serial| !self.bond(*serial).exists())
            .collect();
        serials.sort_unstable_by(|one, other| other.cmp(one));
        serials.truncate(FIRST_KEYS as usize);
        let mut keys = Vec::with_capacity(serials.len());
        for serial in serials {
            if let Some(bytes) = disk::read(&self.path(serial))?.map(Zeroizing::new)
                && let Ok(key) = OneTimeKey::from_stored(&bytes)
            {
                keys.push(offer(&key, serial, signer));
            }
        }
        give(client, keys).await.map(drop)
    }

    /// Makes keys until the server has [`FIRST_KEYS`] that no plan has named: keeps their private halves durably, and
    /// gives it the signed public halves.
    pub async fn refill(&self, client: &mut Client, signer: &dyn Signer) -> Result<()> {
        let stock = give(client, Vec::new()).await?;
        let missing = FIRST_KEYS.saturating_sub(u64::from(stock));
        if missing == 0 {
            return Ok(());
        }
        let mut keys = Vec::new();
        let mut serial = self.reserve_serials(missing)?;
        for _ in 0..missing {
            serial += 1;
            let mut entropy = Entropy::from_os().map_err(|error| Error::fault("entropy", error))?;
            let key = OneTimeKey::generate(&mut entropy)?;
            self.disk.write(&self.path(serial), &key.store_bytes())?;
            keys.push(offer(&key, serial, signer));
        }
        give(client, keys).await.map(drop)
    }

    /// The private half for an offer that a plan names.
    ///
    /// # Errors
    /// [`Error::Refused`] if it was used and erased, or never made here.
    pub fn take(&self, offer: &OneTimeKeyOffer) -> Result<OneTimeKey> {
        let bytes = disk::read(&self.path(offer.serial))?
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
        self.disk.once(
            &self.bond(offer.serial),
            &context.digest(),
            "the plan names a one-time key that another plan named before",
        )
    }

    /// Erases a private half at the end of its context, or before it was used there; one that is bound to another
    /// context stays. Overwritten, synced, removed. (A file system that copies on write, or a flash disk, may keep the
    /// old block: SECURITY.md.)
    pub fn erase(&self, offer: &OneTimeKeyOffer, context: Context) -> Result<()> {
        let bond = self.bond(offer.serial);
        match self.disk.once(&bond, &context.digest(), "") {
            Err(Error::Refused(_)) => Ok(()),
            bound => bound.and_then(|()| self.disk.erase(&self.path(offer.serial))),
        }
    }

    /// Erases the private half that is bound to a context, if there is one.
    pub fn erase_bound_to(&self, context: Context) -> Result<()> {
        let digest = context.digest().to_string();
        for bond in disk::files(&self.folder)? {
            if bond
                .extension()
                .is_some_and(|extension| extension == "context")
                && disk::read(&bond)?.is_some_and(|bound| bound == digest.as_bytes())
            {
                self.disk.erase(&bond.with_extension("key"))?;
            }
        }
        Ok(())
    }

    /// Takes the next serial numbers; returns the last one taken before. Its file survives every erasure.
    fn reserve_serials(&self, count: u64) -> Result<u64> {
        let mark = self.folder.join("last");
        let last = match disk::read(&mark)? {
            Some(bytes) => String::from_utf8_lossy(&bytes)
                .trim()
                .parse::<u64>()
                .map_err(|error| Error::malformed(mark.display().to_string(), error))?,
            None => 0,
        };
        self.disk
            .write(&mark, (last + count).to_string().as_bytes())?;
        Ok(last)
    }

    fn path(&self, serial: u64) -> PathBuf {
        self.folder.join(format!("{serial}.key"))
    }

    /// Where it stands which context a key is bound to.
    fn bond(&self, serial: u64) -> PathBuf {
        self.folder.join(format!("{serial}.context"))
    }
}

/// A key's signed public half.
fn offer(key: &OneTimeKey, serial: u64, signer: &dyn Signer) -> Vec<u8> {
    let offer = OneTimeKeyOffer {
        member: signer.verifying_key().fingerprint(),
        serial,
        public_key: key.public(),
    };
    Signed::sign(offer, signer).encode()
}

/// Gives keys to the server; returns how many it has that no plan has named.
async fn give(client: &mut Client, keys: Vec<Vec<u8>>) -> Result<u32> {
    let request = proto::PutOneTimeKeysRequest { keys };
    Ok(client.put_one_time_keys(request).await?.into_inner().stock)
}
