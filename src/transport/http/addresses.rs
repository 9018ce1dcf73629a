//! The addresses of a server. Object stores and CDNs have many for one name, each with limits of its own: connections
//! are spread over them, and one that fails or is slow is left for a while.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::net::TcpStream;

/// How long an answer of the name service is used.
const KNOWN: Duration = Duration::from_secs(30);
/// How long an address that failed is left.
const REST: Duration = Duration::from_secs(30);
/// After which time without an answer the next address is tried too (RFC 8305).
const NEXT: Duration = Duration::from_millis(250);
/// An address is slow whose bodies come so many times slower than those of the best.
const SLOW: f64 = 4.0;
/// The shortest body that tells something of a rate.
const TELLING: u64 = 256 << 10;

/// The addresses of the servers of one store.
#[derive(Debug, Default)]
pub(super) struct Addresses {
    servers: Mutex<HashMap<Arc<str>, Server>>,
    /// Those of names that the name service is not asked about.
    given: HashMap<String, Vec<SocketAddr>>,
}

#[derive(Debug)]
struct Server {
    asked: Instant,
    all: Vec<Address>,
}

#[derive(Debug, Clone)]
struct Address {
    address: SocketAddr,
    /// Connections made or begun.
    made: u64,
    rests: Option<Instant>,
    /// Bytes per second of bodies, lately.
    rate: Option<f64>,
}

impl Server {
    fn new(found: Vec<SocketAddr>, now: Instant) -> Self {
        let address = |address| Address { address, made: 0, rests: None, rate: None };
        Self { asked: now, all: found.into_iter().map(address).collect() }
    }

    /// Takes a new answer of the name service, and keeps what is known of addresses.
    fn update(&mut self, found: Vec<SocketAddr>, now: Instant) {
        let new = Self::new(found, now).all.into_iter().map(|new| {
            self.all.iter().find(|old| old.address == new.address).cloned().unwrap_or(new)
        });
        (self.all, self.asked) = (new.collect(), now);
    }

    /// In which order to try them: those that work and are not slow first, and of those the ones with the fewest
    /// connections.
    fn order(&self, now: Instant) -> Vec<SocketAddr> {
        let mut all: Vec<_> = self.all.iter().collect();
        all.sort_by_key(|a| (a.rests.is_some_and(|until| now < until), self.is_slow(a), a.made));
        all.into_iter().map(|address| address.address).collect()
    }

    fn is_slow(&self, address: &Address) -> bool {
        let best = self.all.iter().filter_map(|other| other.rate).fold(0.0, f64::max);
        address.rate.is_some_and(|rate| rate * SLOW < best)
    }

    fn get(&mut self, address: SocketAddr) -> Option<&mut Address> {
        self.all.iter_mut().find(|known| known.address == address)
    }

    fn heard(&mut self, address: SocketAddr, rate: f64) {
        if let Some(known) = self.get(address) {
            known.rate = Some(known.rate.map_or(rate, |old| old * 0.75 + rate * 0.25));
        }
    }
}

impl Addresses {
    pub(super) fn new(given: HashMap<String, Vec<SocketAddr>>) -> Self {
        Self { given, ..Self::default() }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, Server>> {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Connects to one of the addresses of `authority`, a host and a port.
    pub(super) async fn connect(&self, authority: &Arc<str>) -> io::Result<TcpStream> {
        let mut order = self.order(authority).await?.into_iter();
        let mut trying = FuturesUnordered::new();
        let mut pending = Vec::new();
        let mut last = None;
        loop {
            if let Some(address) = order.next() {
                self.change(authority, address, |known| known.made += 1);
                pending.push(address);
                trying.push(async move { (address, TcpStream::connect(address).await) });
            } else if trying.is_empty() {
                let none = || io::Error::new(io::ErrorKind::NotFound, "the name has no address");
                return Err(last.unwrap_or_else(none));
            }
            let wait = if order.len() == 0 { Duration::MAX } else { NEXT };
            // In time, or the next one is tried too.
            let Ok(Some((address, connected))) = tokio::time::timeout(wait, trying.next()).await
            else {
                continue;
            };
            pending.retain(|other| *other != address);
            match connected {
                Ok(stream) => {
                    // Those that were tried before it have no answer yet.
                    pending.iter().for_each(|slow| self.failed(authority, *slow));
                    self.change(authority, address, |known| known.rests = None);
                    return Ok(stream);
                }
                Err(error) => {
                    self.failed(authority, address);
                    last = Some(error);
                }
            }
        }
    }

    async fn order(&self, authority: &Arc<str>) -> io::Result<Vec<SocketAddr>> {
        let now = Instant::now();
        if let Some(known) = self.lock().get(authority)
            && now < known.asked + KNOWN
        {
            return Ok(known.order(now));
        }
        let host = authority.rsplit_once(':').map_or(&**authority, |(host, _)| host);
        let mut found: Vec<SocketAddr> = match self.given.get(host) {
            Some(given) => given.clone(),
            None => tokio::net::lookup_host(&**authority).await?.collect(),
        };
        // Many clients of one name do not begin with the same address.
        if found.iter().all(SocketAddr::is_ipv4) {
            let chance = RandomState::new().build_hasher().finish() as usize;
            let first = chance % found.len().max(1);
            found.rotate_left(first);
        }
        let mut servers = self.lock();
        let server =
            servers.entry(authority.clone()).or_insert_with(|| Server::new(Vec::new(), now));
        server.update(found, now);
        Ok(server.order(now))
    }

    fn change(&self, authority: &Arc<str>, address: SocketAddr, how: impl FnOnce(&mut Address)) {
        if let Some(known) = self.lock().get_mut(authority).and_then(|server| server.get(address)) {
            how(known);
        }
    }

    fn failed(&self, authority: &Arc<str>, address: SocketAddr) {
        self.change(authority, address, |known| known.rests = Some(Instant::now() + REST));
    }

    /// Hears how long a body took. Returns whether its address is slow.
    pub(super) fn heard(
        &self,
        authority: &Arc<str>,
        address: SocketAddr,
        bytes: u64,
        took: Duration,
    ) -> bool {
        let mut servers = self.lock();
        let Some(server) = servers.get_mut(authority).filter(|server| server.all.len() > 1) else {
            return false;
        };
        if bytes >= TELLING {
            server.heard(address, bytes as f64 / took.as_secs_f64().max(1e-6));
        }
        server.all.iter().any(|known| known.address == address && server.is_slow(known))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, last], 80))
    }

    #[test]
    fn connections_are_spread_and_bad_addresses_left() {
        let now = Instant::now();
        let mut server = Server::new((1..4).map(address).collect(), now);
        for _ in 0..9 {
            let first = server.order(now)[0];
            server.get(first).unwrap().made += 1;
        }
        assert!(server.all.iter().all(|known| known.made == 3));
        server.get(address(1)).unwrap().rests = Some(now + REST);
        server.heard(address(2), 1e6);
        server.heard(address(3), 20e6);
        assert_eq!(server.order(now), [address(3), address(2), address(1)]);
        assert_eq!(server.order(now + REST)[..2], [address(1), address(3)]);
        // One that the name service no longer tells is not used, and what is known of the others stays.
        server.update(vec![address(2), address(4)], now);
        assert_eq!(server.order(now), [address(4), address(2)]);
    }

    #[tokio::test]
    async fn an_address_that_refuses_is_passed_over() {
        let server = tokio::net::TcpListener::bind("127.0.0.2:0").await.unwrap();
        let port = server.local_addr().unwrap().port();
        let all = ["127.0.0.1", "127.0.0.2"].map(|ip| SocketAddr::new(ip.parse().unwrap(), port));
        let given = HashMap::from([("many".to_owned(), all.to_vec())]);
        let addresses = Addresses::new(given);
        let authority: Arc<str> = format!("many:{port}").into();
        for _ in 0..3 {
            let stream = addresses.connect(&authority).await.unwrap();
            assert_eq!(stream.peer_addr().unwrap(), all[1]);
        }
        let made = |at: usize| {
            addresses.lock()[&authority].all.iter().find(|a| a.address == all[at]).map(|a| a.made)
        };
        assert!(made(0) <= Some(1) && made(1) == Some(3), "{:?} {:?}", made(0), made(1));
        drop(server);
        assert!(addresses.connect(&authority).await.is_err());
    }
}
