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
    transfer::retry_a_while,
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

    /// Gives the server what an earlier life may not have given it, and what it lacks.
    pub async fn offer_all(&self, client: &Client, signer: &dyn Signer) -> Result<()> {
        self.offer_again(client, signer).await?;
        self.refill(client, signer).await
    }

    /// Offers the keys of an earlier life that no plan has named yet, most recent first: a crash may have kept them
    /// from the server. It passes over those that it had.
    async fn offer_again(&self, client: &Client, signer: &dyn Signer) -> Result<()> {
        let mut serials: Vec<u64> = disk::files(&self.folder)?
            .iter()
            .filter(|path| path.extension().is_some_and(|extension| extension == "key"))
            .filter_map(|path| path.file_stem()?.to_str()?.parse().ok())
            .filter(|serial| !self.bond(*serial).exists())
            .collect();
        serials.sort_unstable_by(|one, other| other.cmp(one));
        serials.truncate(FIRST_KEYS as usize);
        let mut offers = Vec::with_capacity(serials.len());
        for serial in serials {
            if let Some(bytes) = disk::read(&self.path(serial))?.map(Zeroizing::new)
                && let Ok(key) = OneTimeKey::from_stored(&bytes)
            {
                offers.push(offer(&key, serial, signer));
            }
        }
        give(client, &offers).await.map(drop)
    }

    /// Makes keys until the server has [`FIRST_KEYS`] that no plan has named: keeps their private halves durably, and
    /// gives it the signed public halves.
    pub async fn refill(&self, client: &Client, signer: &dyn Signer) -> Result<()> {
        let stock = give(client, &[]).await?;
        let missing = FIRST_KEYS.saturating_sub(u64::from(stock));
        if missing == 0 {
            return Ok(());
        }
        let offers = self.make(signer, missing)?;
        give(client, &offers).await.map(drop)
    }

    /// New keys: the private halves are on the disk before anybody hears of the public ones.
    fn make(&self, signer: &dyn Signer, count: u64) -> Result<Vec<Signed<OneTimeKeyOffer>>> {
        let last = self.reserve_serials(count)?;
        let make = |serial| {
            let mut entropy = Entropy::from_os().map_err(|error| Error::fault("entropy", error))?;
            let key = OneTimeKey::generate(&mut entropy)?;
            self.disk.write(&self.path(serial), &key.store_bytes())?;
            Ok(offer(&key, serial, signer))
        };
        (last + 1..=last + count).map(make).collect()
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

    /// Erases the private half at the end of its context: overwritten, synced, removed. (A file system that copies on
    /// write, or a flash disk, may keep the old block: SECURITY.md.) That it was bound stays noted.
    pub fn erase_bound_to(&self, context: Context) -> Result<()> {
        let noted = context.to_string();
        for path in disk::files(&self.folder)? {
            let is_note = path.extension().is_some_and(|kind| kind == "context");
            if is_note && disk::read(&path)?.is_some_and(|bound| bound == noted.as_bytes()) {
                self.disk.erase(&path.with_extension("key"))?;
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
fn offer(key: &OneTimeKey, serial: u64, signer: &dyn Signer) -> Signed<OneTimeKeyOffer> {
    let offer = OneTimeKeyOffer {
        member: signer.verifying_key().fingerprint(),
        serial,
        public_key: key.public(),
    };
    Signed::sign(offer, signer)
}

/// Gives keys to the server; returns how many it has that no plan has named.
async fn give(client: &Client, offers: &[Signed<OneTimeKeyOffer>]) -> Result<u32> {
    let keys = offers.iter().map(Signed::encode).collect();
    let request = proto::PutOneTimeKeysRequest { keys };
    let reply = retry_a_while(|| {
        let (mut client, request) = (client.clone(), request.clone());
        async move { client.put_one_time_keys(request).await }
    })
    .await?;
    Ok(reply.into_inner().stock)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use ciphertune_identity::SigningKey;

    use super::*;

    fn context(plan: &[u8]) -> Context {
        Context::of_plan(plan)
    }

    /// A stock in a new folder, and some offers of it.
    fn stocked(count: u64) -> (tempfile::TempDir, Stock, SigningKey, Vec<OneTimeKeyOffer>) {
        let folder = tempfile::tempdir().unwrap();
        let stock = Stock::open(folder.path().join("keys"), Disk::default()).unwrap();
        let key = SigningKey::generate().unwrap();
        let offers = stock.make(&key, count).unwrap();
        let offers = offers.iter().map(|offer| offer.value().clone()).collect();
        (folder, stock, key, offers)
    }

    fn words(refused: Result<impl Sized>) -> String {
        match refused {
            Err(Error::Refused(said)) => said,
            Err(error) => panic!("{error}"),
            Ok(_) => panic!("not refused"),
        }
    }

    #[test]
    fn every_key_has_a_serial_of_its_own_even_after_erasures_and_restarts() {
        let (folder, stock, key, offers) = stocked(3);
        let serials = |offers: &[OneTimeKeyOffer]| -> Vec<u64> {
            offers.iter().map(|offer| offer.serial).collect()
        };
        assert_eq!(serials(&offers), [1, 2, 3]);
        for offer in &offers {
            assert!(stock.take(offer).unwrap().public() == offer.public_key);
            stock.bind(offer, context(b"a")).unwrap();
        }
        stock.erase_bound_to(context(b"a")).unwrap();
        drop(stock);
        let stock = Stock::open(folder.path().join("keys"), Disk::default()).unwrap();
        let more = stock.make(&key, 2).unwrap();
        let more: Vec<_> = more.iter().map(|offer| offer.value().clone()).collect();
        assert_eq!(serials(&more), [4, 5]);
    }

    #[test]
    fn a_key_is_bound_to_one_context_even_after_a_restart() {
        let (folder, stock, _, offers) = stocked(2);
        stock.bind(&offers[0], context(b"a")).unwrap();
        stock.bind(&offers[0], context(b"a")).unwrap();
        drop(stock);
        let stock = Stock::open(folder.path().join("keys"), Disk::default()).unwrap();
        let said = words(stock.bind(&offers[0], context(b"b")));
        assert!(said.contains("that another plan named before"), "{said}");
        stock.bind(&offers[1], context(b"b")).unwrap();
    }

    #[test]
    fn an_erased_key_is_overwritten_gone_and_never_taken_again() {
        let (folder, stock, _, offers) = stocked(2);
        stock.bind(&offers[0], context(b"a")).unwrap();
        // A second name for the file shows what became of its bytes.
        let witness = folder.path().join("witness");
        fs::hard_link(stock.path(1), &witness).unwrap();
        assert!(fs::read(&witness).unwrap().iter().any(|byte| *byte != 0));
        stock.erase_bound_to(context(b"a")).unwrap();
        stock.erase_bound_to(context(b"a")).unwrap();
        assert_eq!(fs::read(&witness).unwrap(), [0; 32]);
        assert!(!stock.path(1).exists() && stock.path(2).exists());
        for refused in [
            words(stock.take(&offers[0])),
            words(stock.bind(&offers[0], context(b"a"))),
        ] {
            assert!(refused.contains("used before and is erased"), "{refused}");
        }
    }

    #[test]
    fn the_end_of_a_context_erases_the_keys_bound_to_it_and_no_other() {
        let (_folder, stock, _, offers) = stocked(3);
        stock.bind(&offers[0], context(b"a")).unwrap();
        stock.bind(&offers[1], context(b"b")).unwrap();
        stock.erase_bound_to(context(b"a")).unwrap();
        stock.erase_bound_to(context(b"c")).unwrap();
        let held = [1, 2, 3].map(|serial| stock.path(serial).exists());
        assert_eq!(held, [false, true, true]);
    }

    #[test]
    fn an_offer_that_was_not_made_here_is_refused() {
        let (_folder, stock, key, offers) = stocked(1);
        let (_other_folder, other, ..) = stocked(0);
        let foreign = other.make(&key, 1).unwrap();
        let said = words(stock.bind(foreign[0].value(), context(b"a")));
        assert!(said.contains("is not the one made here"), "{said}");
        let unknown = OneTimeKeyOffer {
            serial: 9,
            ..offers[0].clone()
        };
        assert!(words(stock.take(&unknown)).contains("used before"));
    }
}
