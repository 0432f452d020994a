//! The client API over HTTP/1.1.
//!
//! Bytes come in through [`screen`], which lets only well-framed requests through; [`server`] runs
//! the connections of a listener over any byte stream ([`connection`] is one of them); [`api`] is
//! the life of one request: the parsers ([`path`], [`query`], [`headers`], [`body`]) turn it into
//! the plain structs of [`crate::coordinator::request`], and the writers ([`get`], [`mod@write`],
//! [`list`], [`batch`]) turn outcomes into answers. Every error is a [`problem::Problem`].
//!
//! | request | answer |
//! |---|---|
//! | `GET /v1/kv/{bucket}/{key}` | 200 with the value; 300 or 409 where there are several; 404 |
//! | `PUT`, `DELETE /v1/kv/{bucket}/{key}` | 204 |
//! | `GET /v1/kv/{bucket}` | 200 with a page of keys, or all of them in lines |
//! | `POST /v1/batch` | 200 with one result per item |
//!
//! **Levels** (`r` and `w`) are `one`, `quorum`, `all` or a count, over all copies wherever they are;
//! `local_one` and `local_quorum`, over those in the data center of the node that is asked (`bad_level`
//! where it keeps none); and `each_quorum`, a majority in each data center. Where one of the last three
//! is not reached, `data_centers` in the error names those that were short.
//!
//! **Lists** take `prefix` (any bytes), `limit` (1,000 where absent, at most 10,000), `cursor`,
//! `values=true`, `r`, `sloppy` and `timeout`. Keys come in the order of their hashes. A page is
//! `{"keys":[{"key","siblings","bytes"}],"next","progress","agreed","replicas","standins"}`: `key_b64`
//! stands for `key` where that is no text, `values` holds what is shown of each key, `next` is the cursor
//! of the following page and null at the end, `progress` says how much of the ring is behind it (0 to 1),
//! `agreed` is the fewest replicas that held the same of a key of this page, and `standins` the most
//! stand-ins that answered for owners. A page may hold fewer keys than asked for, even none, and more
//! behind it: it ends at its limit, at 4 MiB of values, after half of its time, or before a part of the
//! ring in which too few replicas answer; then the next page is the error (503). With
//! `Accept: application/x-ndjson` each key is a line, each page ends with a line that begins with `next`,
//! and `timeout` is that of each page; a stream whose last line begins otherwise was cut off, or says why
//! in `error`, and goes on at the `next` before. `limit` has no bound there.
//!
//! A key that was written at w before the list began and is there until its end comes exactly once, where
//! r + w > N and no stand-in was counted; tombstones and expired values are left out; what is written
//! meanwhile may come or not. A cursor is bound to cluster, bucket and prefix (`bad_cursor`) and does not
//! expire. A list reads the data that lies between the keys of its bucket: it costs what all data costs.
//!
//! **Batches** are a JSON array, or one object a line, of at most 1,000 items and 8 MiB:
//! `{"op":"get|put|delete","bucket","key"|"key_b64","value"|"value_b64","content_type","context","ttl"}`;
//! `r`, `w`, `sloppy`, `durability` and `timeout` in the query hold for all. The answer has the form of
//! the body, one result per item in their order: `{"status","context","acks"}` for a write,
//! `{"status","context","replicas","siblings":[...]}` for a read, else a problem with its `status`,
//! `code` and, for writes, `may_be_stored`. Items run side by side, in no order, and are not atomic in any
//! way: two items of one key are two concurrent writes. A body that is no batch does nothing
//! (`bad_batch`, `batch_too_large`); an item that cannot be used answers 400 and stops no other. Once the
//! results have 32 MiB, further reads answer `batch_too_large`.
//!
//! # Bucket settings
//!
//! `GET /v1/buckets/{bucket}` says what holds for a bucket, `GET /v1/buckets` lists those with settings
//! of their own, `PUT /v1/buckets/{bucket}` changes some of them:
//!
//! ```text
//! PUT /v1/buckets/sessions            {"ttl": 1800, "durability": "periodic"}
//! 200  {"bucket": "sessions", "declared": true, "epoch": 3, "settings": {"r": "quorum", "w": "quorum",
//!       "durability": "periodic", "sloppy": true, "ttl": 1800, "mode": "siblings"}}
//! ```
//!
//! - Settings are `r` and `w` (`one`, `quorum`, `all`, `local_one`, `local_quorum`, `each_quorum` or a
//!   count, as a string), `durability`, `sloppy`, `ttl` (seconds, `null` for ever) and `mode`. What is
//!   not named stays; a body of `{}` or none declares the bucket with the defaults of that moment.
//! - The first change makes an entry. The mode of a bucket with an entry is fixed (409
//!   `bucket_mode_fixed`), and an entry is never removed. There may be 1,024 (409 `too_many_buckets`):
//!   each is a part of the cluster document, which every node stores, sends and hashes whole.
//! - Unknown settings and wrong types are 400 `bad_settings`, a level above the copies of a key or a
//!   ttl out of bounds 422 `impossible_settings`; nothing is changed.
//! - The change is made by a majority of the members. Without one: 503 `no_majority`, whose
//!   `may_be_chosen` says whether it may be in force all the same. The same change again is harmless.
//! - It is in force on the node that answered at once, on others within moments. A request obeys what
//!   the node knows that coordinates it: declare a bucket before its first write.
//! - Who may: reading is open. `PUT` wants the token of the admin port under the rule of that port: none
//!   where the client port listens on loopback, `Authorization: Bearer TOKEN` elsewhere (401
//!   `token_required`, 403 `token_refused`), and nobody elsewhere where a node has no token. Writing data
//!   touches one key; settings touch everybody's keys, and entries cannot be taken back.
//!
//! # Where the last write wins
//!
//! In a bucket with the mode `lastWriteWins` a read shows one value, or none, never several, and a write
//! needs no token: it supersedes what is stored.
//!
//! - Of two writes one after the other the later one stays, whatever the clocks of the nodes say, where
//!   both are acknowledged by a majority of the owners (`w` at `quorum` or more, `sloppy=false`). Where
//!   stand-ins were counted that did not know of the earlier one, the one with the higher stamp stays.
//! - Of two writes at the same time one is lost: the one with the lower stamp, that is, roughly, the one
//!   whose node's clock is behind. Who must not lose any uses `siblings`.
//! - A delete without token needs no read. A value whose `ttl` is over, or that was deleted, does not let
//!   an older one show.
//! - A write at which a replica held something newer is made again before it is answered
//!   (`kvasir_coordinator_covering_rounds_total`); where clocks agree this is rare.
//!
//! # Life of values
//!
//! `ttl=60s` on a `PUT`, else the `ttl` of the bucket, says how long a value lives. The moment of its end
//! is stored with it, counted from its stamp, and never changes; the value then counts as deleted, by the
//! clock of the node that answers. `expires_ms=1798761600000` says the moment itself, in Unix milliseconds: the
//! same write again, because its answer was lost, ends with it then and shows no second value. `X-Kvasir-TTL` says what is left, in seconds. A later write without
//! `ttl` in a bucket without one lives for ever. What wrong clocks mean:
//!
//! - All replicas hold the same bytes, and differ only in when they call a value dead: a node whose clock
//!   is ahead by s seconds stops showing it s seconds early, one that is behind shows it s seconds longer.
//! - A node follows stamps of others up to one minute ahead of its own clock, so that a value written
//!   through a node whose clock is behind lives at least as long as it should for those that it heard
//!   from, and at most a minute longer. Stamps further ahead are stored and not followed
//!   (`kvasir_clock_stamps_ahead_total`). A node whose own clock is ahead writes values that live that
//!   much longer for others. Keep clocks synchronised: lives are as exact as they are.
//!
//! Nothing here decides about replicas, and nothing here is allocated by a length that a client
//! merely claims.

pub mod api;
pub mod batch;
pub mod body;
pub mod buckets;
pub mod connection;
pub mod content;
pub mod date;
pub mod get;
pub mod headers;
pub mod limits;
pub mod list;
pub mod path;
pub mod problem;
pub mod query;
pub mod screen;
pub mod server;
pub mod stats;
pub mod write;

/// An answer. Its body is whole before the first byte is sent, but for lists in lines.
pub type Answer = hyper::Response<content::Content>;

#[cfg(test)]
mod tests;
