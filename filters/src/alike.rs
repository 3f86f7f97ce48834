//! What makes requests alike: the hash of a header field, a cookie, a parameter or the client's address. Alike requests
//! go to one endpoint, and stay in or out of a share. Pure, Hot.

use std::net::IpAddr;

use config::consistent;
use config::route::query_param;
use config::snapshot::HashKey;

use crate::Head;

/// The same for the same bytes, wherever they came in and in every process. None: the request has none, or an empty one.
pub fn hash(key: &HashKey, head: &Head, client: IpAddr) -> Option<u64> {
    let of = |value: &[u8]| (!value.is_empty()).then(|| consistent::hash(value));
    match key {
        HashKey::Header(name) => of(head.get(name)?),
        HashKey::Cookie(name) => of(head.cookie(name)?),
        HashKey::Query(name) => of(&query_param(head.bytes(head.query), name.as_bytes())?),
        HashKey::ClientAddress => match client.to_canonical() {
            IpAddr::V4(address) => of(&address.octets()),
            IpAddr::V6(address) => of(&address.octets()),
        },
    }
}
