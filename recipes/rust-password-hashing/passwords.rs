//! Hashes passwords with Argon2id off the async runtime: a few at a time, a few that wait, nobody for long.
use argon2::password_hash::phc::{Output, PasswordHash, Salt};
use argon2::password_hash::{Error, try_generate_salt};
use argon2::{Algorithm, Argon2, Block, Params, PasswordHasher, Version};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::{sync::Semaphore, task::spawn_blocking, time::timeout};
use unicode_normalization::UnicodeNormalization;

pub struct Settings {
    pub memory_kib: u32, // OWASP: 19 MiB, 2 passes, 1 lane, or a combination that costs as much
    pub passes: u32,
    pub lanes: u32,
    pub most_memory_kib: u32, // that a stored hash may ask for; times `running` is the memory for hashing
    pub most_passes: u32,
    pub running: usize, // cores that logins may use; one fewer than there are leaves one to all else
    pub waiting: usize,
    pub wait: Duration, // until its turn; below the caller's timeout by the time of two hashes
    pub longest: usize, // bytes
}

#[derive(Debug, PartialEq)]
pub enum Failure {
    Busy,          // nothing was hashed
    TooLong,       // nor here
    Broken(Error), // the stored hash cannot be used: not a wrong password, and for somebody to look into
    Stopped,       // the runtime ends, or the hash panicked
}

#[derive(Debug, PartialEq)]
pub struct Checked {
    pub right: bool,
    /// Made with today's parameters: store it where the hash that was checked still stands, lest it undo a change.
    pub renewed: Option<String>,
}

type Memory = Vec<Block>;

#[derive(Clone)]
pub struct Passwords {
    settings: Arc<Settings>,
    today: Arc<PasswordHash>, // with today's parameters, of no password
    places: Arc<Semaphore>,
    permits: Arc<Semaphore>,
    // One for each that runs. Allocated for each hash instead, malloc keeps many times what is in use at once.
    memory: Arc<Mutex<Vec<Memory>>>,
}

impl Passwords {
    /// Hashes once, so call it before serving. Fails when the parameters are not possible.
    pub fn new(settings: Settings) -> Result<Self, Error> {
        let params = Params::new(settings.memory_kib, settings.passes, settings.lanes, None)?;
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        let today = Arc::new(argon2.hash_password(&[0xff])?); // no text has these bytes, so that none is right
        let places = Arc::new(Semaphore::new(settings.running + settings.waiting));
        let permits = Arc::new(Semaphore::new(settings.running));
        Ok(Self { settings: Arc::new(settings), today, places, permits, memory: Arc::default() })
    }

    /// For a new password, as the PHC string to store.
    pub async fn hash(&self, password: &str) -> Result<String, Failure> {
        let (password, today) = (self.prepared(password)?, self.today.clone());
        self.run(move |memory| make(&today, &password, memory)).await
    }

    /// `stored` is None for a user who does not exist, which takes as long.
    pub async fn check(&self, password: &str, stored: Option<&str>) -> Result<Checked, Failure> {
        let (password, today) = (self.prepared(password)?, self.today.clone());
        let stored = match stored {
            Some(text) => self.parsed(text).map_err(Failure::Broken)?,
            None => (*today).clone(),
        };
        self.run(move |memory| {
            let right = stored.hash == Some(derive(&stored, &password, memory)?); // compared in constant time
            let length = |hash: &PasswordHash| hash.hash.map(|output| output.len());
            let kind = |hash: &PasswordHash| (hash.algorithm, hash.version, hash.params.clone(), length(hash));
            // In the same turn: a second one could be refused, and the old hash would stay.
            let renew = right && kind(&stored) != kind(&today);
            Ok(Checked { right, renewed: renew.then(|| make(&today, &password, memory)).transpose()? })
        })
        .await
    }

    /// How many hashes could start now, for a gauge.
    pub fn free(&self) -> usize {
        self.permits.available_permits()
    }

    fn prepared(&self, password: &str) -> Result<String, Failure> {
        if password.len() > self.settings.longest {
            return Err(Failure::TooLong); // before anybody waits for it
        }
        Ok(password.nfc().collect()) // one keyboard sends é as one code point, another as two
    }

    fn parsed(&self, text: &str) -> Result<PasswordHash, Error> {
        let hash = PasswordHash::new(text)?;
        let params = Params::try_from(&hash)?;
        if hash.salt.is_none() || hash.hash.is_none() || hash.version.is_none() {
            return Err(Error::EncodingInvalid); // cut off, or so old that its version is not written down
        }
        if params.m_cost() > self.settings.most_memory_kib || params.t_cost() > self.settings.most_passes {
            return Err(Error::ParamsInvalid); // whoever can write one row must not take all memory
        }
        Ok(hash)
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Memory) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Failure> {
        let place = self.places.clone().try_acquire_owned().map_err(|_| Failure::Busy)?;
        let turn = timeout(self.settings.wait, self.permits.clone().acquire_owned());
        let permit = turn.await.map_err(|_| Failure::Busy)?.map_err(|_| Failure::Stopped)?;
        let idle = self.memory.clone();
        let hashing = spawn_blocking(move || {
            let _held = (place, permit); // to the end of the hash: it runs on and needs its memory when its caller goes
            let mut memory = idle.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default();
            let result = work(&mut memory);
            idle.lock().unwrap_or_else(PoisonError::into_inner).push(memory);
            result
        });
        hashing.await.map_err(|_| Failure::Stopped)?.map_err(Failure::Broken)
    }
}

fn make(like: &PasswordHash, password: &str, memory: &mut Memory) -> Result<String, Error> {
    let mut new = PasswordHash { salt: Some(Salt::new(&try_generate_salt()?)?), ..like.clone() };
    new.hash = Some(derive(&new, password, memory)?);
    Ok(new.to_string())
}

/// What the password gives with the salt and the parameters of a hash.
fn derive(hash: &PasswordHash, password: &str, memory: &mut Memory) -> Result<Output, Error> {
    let (Some(salt), Some(version)) = (&hash.salt, hash.version) else { return Err(Error::EncodingInvalid) };
    let params = Params::try_from(hash)?;
    let mut output = vec![0; params.output_len().unwrap_or(Params::DEFAULT_OUTPUT_LEN)];
    memory.resize(memory.len().max(params.block_count()), Block::default());
    let argon2 = Argon2::new(hash.algorithm.as_str().try_into()?, version.try_into()?, params);
    argon2.hash_password_into_with_memory(password.as_bytes(), salt, &mut output, &mut memory[..])?;
    Ok(Output::new(&output)?)
}
