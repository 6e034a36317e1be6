//! The S3 servers start with a bucket and answer, through an outage too.

use std::net::TcpStream;

use tidemark_testkit::{Garage, Moto, http_get};

#[test]
fn garage_answers_and_survives_an_outage() {
    let garage = Garage::start_new();
    let endpoint = garage.endpoint();
    let unsigned = http_get(endpoint.address, &format!("/{}", endpoint.bucket)).unwrap();
    assert_eq!(
        unsigned.status, 403,
        "an unsigned request is refused: {}",
        unsigned.body
    );
    garage.stop();
    assert!(TcpStream::connect(endpoint.address).is_err());
    garage.start();
    assert_eq!(http_get(endpoint.address, "/").unwrap().status, 403);
}

#[test]
fn moto_starts_with_an_empty_bucket() {
    let moto = Moto::start_new();
    let endpoint = moto.endpoint();
    let listing = http_get(endpoint.address, &format!("/{}?list-type=2", endpoint.bucket)).unwrap();
    assert_eq!(listing.status, 200);
    assert!(
        listing.body.contains("<KeyCount>0</KeyCount>"),
        "{}",
        listing.body
    );
}
