//! The rows of the table: what one cluster goes through, in this order. It starts empty and is filled first; every
//! later row reads or overwrites random keys of that. Each has a warm-up that is not counted, on the connections
//! that are measured.

use super::client::{Aim, Client, Measured, Mix, Pace};
use super::servers::{Programs, Servers, Store};
use super::usage;
use crate::journal::Line;
use std::path::Path;
use std::time::Duration;

/// How much of everything.
#[derive(Debug, Clone, Copy)]
pub struct Scale {
    /// Name of the data set, first word of each row.
    pub name: &'static str,
    /// Keys stored.
    pub keys: u64,
    /// Bytes of a value.
    pub value_bytes: usize,
    /// Length of a row.
    pub seconds: u64,
    /// What comes before it and is not counted.
    pub warm_up: u64,
    /// Length of a row in which a node dies, a quarter of the way.
    pub loss_seconds: u64,
}

/// Requests in a second of the open rows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rates {
    /// Puts alone.
    pub puts: u32,
    /// Gets alone.
    pub gets: u32,
    /// Half and half, also while a node dies.
    pub both: u32,
}

/// A store and the shape in which it is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct System {
    /// Its name in the table.
    pub name: &'static str,
    /// Which store.
    pub store: Store,
    /// Whether connections go to all nodes in turn, or all to the leader.
    pub spread: bool,
    /// Connections.
    pub connections: usize,
    /// Requests under way on each.
    pub depth: usize,
}

/// Every system: as many requests are under way in each.
pub const SYSTEMS: [System; 4] = [
    System { name: "kvasir", store: Store::Kvasir, spread: true, connections: 64, depth: 1 },
    System { name: "etcd", store: Store::Etcd, spread: true, connections: 64, depth: 1 },
    System { name: "etcd-leader", store: Store::Etcd, spread: false, connections: 64, depth: 1 },
    System { name: "etcd-streams", store: Store::Etcd, spread: true, connections: 6, depth: 11 },
];

/// What one row measured.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// Name of the row.
    pub row: String,
    /// Requests that succeeded in a second.
    pub rate: f64,
    /// Latencies in microseconds at 50, 99 and 99.9 %.
    pub micros: [f64; 3],
    /// Processor seconds of all nodes for 100,000 requests.
    pub cpu: f64,
    /// Resident bytes of all nodes at the end.
    pub resident: f64,
    /// Bytes written to storage by all nodes for each request.
    pub written: f64,
    /// Times that a thread of a node waited, for each request.
    pub waits: f64,
    /// Requests that failed.
    pub failed: f64,
    /// Requests that fell due and found no connection until the end.
    pub unsent: f64,
    /// Seconds in which requests failed.
    pub failed_seconds: f64,
    /// Seconds in which requests took more than 0.1 s.
    pub slow_seconds: f64,
}

impl Line for Outcome {
    fn line(&self) -> String {
        let [a, b, c] = self.micros;
        let figures = [
            self.rate,
            a,
            b,
            c,
            self.cpu,
            self.resident,
            self.written,
            self.waits,
            self.failed,
            self.unsent,
            self.failed_seconds,
            self.slow_seconds,
        ];
        figures.iter().fold(self.row.clone(), |line, figure| format!("{line}\t{figure}"))
    }

    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.split('\t');
        let row = fields.next()?.to_string();
        let figures: Vec<f64> = fields.map(|field| field.parse().ok()).collect::<Option<_>>()?;
        let [rate, a, b, c, cpu, resident, written, waits, failed, unsent, f, s] =
            <[f64; 12]>::try_from(figures).ok()?;
        Some(Self {
            row,
            rate,
            micros: [a, b, c],
            cpu,
            resident,
            written,
            waits,
            failed,
            unsent,
            failed_seconds: f,
            slow_seconds: s,
        })
    }

    fn row(&self) -> &str {
        &self.row
    }
}

/// One cluster going through the rows.
pub struct Course<'a> {
    /// The system.
    pub system: System,
    /// How much.
    pub scale: Scale,
    /// Of the open rows.
    pub rates: Rates,
    /// Only rows whose names contain this; the cluster is filled in any case.
    pub wanted: &'a str,
    /// Of keys, values and times.
    pub seed: u64,
}

/// After a load and after a node came back.
const SETTLE: Duration = Duration::from_secs(60);

impl Course<'_> {
    /// Goes through the rows with a cluster in `dir`, which is made and removed.
    pub fn run(&self, programs: &Programs, dir: &Path) -> Result<Vec<Outcome>, String> {
        let mut servers = Servers::start(self.system.store, programs, dir)?;
        let mut outcomes = vec![self.fill(&servers)?];
        let mixes = [(Mix::Puts, "puts"), (Mix::Gets, "gets"), (Mix::Both, "puts and gets")];
        for (mix, name) in mixes {
            self.row(&servers, &format!("{name}, closed loop"), mix, Pace::Closed, &mut outcomes)?;
        }
        let rates = [self.rates.puts, self.rates.gets, self.rates.both];
        for ((mix, name), rate) in mixes.into_iter().zip(rates) {
            let (row, pace) = (format!("{name}, {rate}/s"), Pace::Open(f64::from(rate)));
            self.row(&servers, &row, mix, pace, &mut outcomes)?;
        }
        let lost =
            [("a node dies (of etcd the leader)", 0), ("a node dies (of etcd a follower)", 1)];
        for (what, after) in lost {
            let row = format!("puts and gets, {}/s, {what}", self.rates.both);
            self.loss(&mut servers, &row, after, &mut outcomes)?;
        }
        Ok(outcomes)
    }

    fn name(&self, row: &str) -> String {
        format!("{}: {row}", self.scale.name)
    }

    fn client(&self, servers: &Servers, row: &str) -> Result<Client, String> {
        let aim = Aim {
            servers: servers.clients(if self.system.spread { 0 } else { servers.leader() }),
            spread: self.system.spread,
            connections: self.system.connections,
            depth: self.system.depth,
            keys: self.scale.keys,
            value_bytes: self.scale.value_bytes,
            speak: servers.speak(),
        };
        // Every row has its own keys, the same for every system.
        let salt =
            row.bytes().fold(self.seed, |salt, byte| salt.wrapping_mul(31) + u64::from(byte));
        Client::connect(aim, salt)
    }

    fn fill(&self, servers: &Servers) -> Result<Outcome, String> {
        let row = "puts of new keys, closed loop";
        let mut client = self.client(servers, row)?;
        let (before, hour) = (usage::of(&servers.pids()), Duration::from_secs(3_600));
        let measured = client.run(Mix::Fill, Pace::Closed, hour, &mut |_| ());
        if measured.failed > 0 || measured.done < self.scale.keys {
            return Err(format!("{} of {} keys were put", measured.done, self.scale.keys));
        }
        let outcome = self.outcome(row, servers, &before, &measured);
        usage::settle(&servers.pids(), SETTLE);
        Ok(outcome)
    }

    fn row(
        &self,
        servers: &Servers,
        row: &str,
        mix: Mix,
        pace: Pace,
        outcomes: &mut Vec<Outcome>,
    ) -> Result<(), String> {
        if !self.name(row).contains(self.wanted) {
            return Ok(());
        }
        let mut client = self.client(servers, row)?;
        client.run(mix, pace, Duration::from_secs(self.scale.warm_up), &mut |_| ());
        let before = usage::of(&servers.pids());
        let time = Duration::from_secs(self.scale.seconds);
        let measured = client.run(mix, pace, time, &mut |_| ());
        outcomes.push(self.outcome(row, servers, &before, &measured));
        Ok(())
    }

    /// A node is killed under load. It is the one that leads, or one `after` it; it comes back before the next row.
    fn loss(
        &self,
        servers: &mut Servers,
        row: &str,
        after: usize,
        outcomes: &mut Vec<Outcome>,
    ) -> Result<(), String> {
        if !self.name(row).contains(self.wanted) {
            return Ok(());
        }
        let (mut client, pace) =
            (self.client(servers, row)?, Pace::Open(f64::from(self.rates.both)));
        client.run(Mix::Both, pace, Duration::from_secs(self.scale.warm_up), &mut |_| ());
        let victim = (servers.leader() + after) % super::servers::NODES;
        let time = Duration::from_secs(self.scale.loss_seconds);
        let (at, mut killed) = (time / 4, false);
        let mut watch = |since: Duration| {
            if since >= at && !killed {
                killed = true;
                servers.kill(victim);
            }
        };
        let measured = client.run(Mix::Both, pace, time, &mut watch);
        // Processor time and memory would be those of two nodes for a part of the row: they are left out.
        let none = usage::of(&[]);
        let mut outcome = self.outcome(row, servers, &none, &measured);
        (outcome.cpu, outcome.resident, outcome.written) = (0.0, 0.0, 0.0);
        outcome.waits = 0.0;
        outcomes.push(outcome);
        drop(client);
        servers.restart(victim)?;
        usage::settle(&servers.pids(), SETTLE);
        Ok(())
    }

    fn outcome(
        &self,
        row: &str,
        servers: &Servers,
        before: &usage::Usage,
        measured: &Measured,
    ) -> Outcome {
        let used = usage::of(&servers.pids()).since(before);
        let (at, done) = (|part| measured.latencies.at(part), measured.done.max(1) as f64);
        let (failed_seconds, slow_seconds) = measured.bad_seconds();
        Outcome {
            row: self.name(row),
            rate: measured.done as f64 / measured.took.as_secs_f64(),
            micros: [at(0.5), at(0.99), at(0.999)],
            cpu: used.cpu.as_secs_f64() * 100_000.0 / done,
            resident: used.resident as f64,
            written: used.written as f64 / done,
            waits: used.waits as f64 / done,
            failed: measured.failed as f64,
            unsent: measured.unsent as f64,
            failed_seconds,
            slow_seconds,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_back_and_half_a_line_is_not() {
        let outcome = Outcome {
            row: "s: puts, 10/s".into(),
            rate: 1.5,
            micros: [2.0, 3.0, 4.0],
            cpu: 5.0,
            resident: 6.0,
            written: 7.0,
            waits: 9.0,
            failed: 10.0,
            unsent: 11.0,
            failed_seconds: 12.0,
            slow_seconds: 13.5,
        };
        let line = outcome.line();
        assert_eq!(Outcome::parse(&line), Some(outcome));
        let cut = line.rfind('\t').unwrap();
        assert_eq!(Outcome::parse(&line[..cut]), None);
    }
}
