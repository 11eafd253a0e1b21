//! The addresses that clients are told.

use ferromq_proxy::AccessAddresses;

use crate::bench::{self, Bench, resource};
use crate::pb::{Address, AddressScheme, Endpoints, QueryAssignmentRequest, QueryAssignmentResponse};
use crate::pb::{QueryRouteRequest, QueryRouteResponse};

async fn told(bench: &Bench, named: Option<Endpoints>) -> [Endpoints; 2] {
    let client = bench.client("finder").await;
    client.send("Found", b"x").await;
    let asked = QueryRouteRequest { topic: resource("Found"), endpoints: named.clone() };
    let mut route: QueryRouteResponse = client.call("QueryRoute", asked).await.unwrap();
    let asked = QueryAssignmentRequest { topic: resource("Found"), group: resource("finders"), endpoints: named };
    let mut assigned: QueryAssignmentResponse = client.call("QueryAssignment", asked).await.unwrap();
    let queues = [route.message_queues.remove(0), assigned.assignments.remove(0).message_queue.unwrap()];
    queues.map(|queue| queue.broker.unwrap().endpoints.unwrap())
}

fn endpoints(scheme: AddressScheme, host: &str, port: i32) -> Endpoints {
    Endpoints { scheme: scheme.into(), addresses: vec![Address { host: host.to_owned(), port }] }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_are_told_the_address_they_used() {
    let bench = bench::start();
    let used = endpoints(AddressScheme::IPv4, "127.0.0.1", bench.addr().port().into());
    assert_eq!(told(&bench, None).await, [used.clone(), used]);
    let named = endpoints(AddressScheme::DomainName, "from.outside", 443);
    assert_eq!(told(&bench, Some(named.clone())).await, [named.clone(), named]);
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_are_told_the_address_that_is_set() {
    let bench =
        bench::start_with(|config, _| config.access = Some(AccessAddresses::parse("mq.example.com:8443").unwrap()));
    let set = endpoints(AddressScheme::DomainName, "mq.example.com", 8443);
    let named = endpoints(AddressScheme::IPv4, "10.0.0.1", 8081);
    assert_eq!(told(&bench, Some(named)).await, [set.clone(), set]);
}
