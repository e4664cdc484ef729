//! Our own client over every listener, with every way to believe and to be believed.

use std::time::Duration;

use bytes::Bytes;
use fluxmq::client::endpoint::TlsOptions;
use fluxmq::client::{
    Client, ClientError, ConnectOptions, Endpoint, Event, PublishRequest, Session, SubscribeRequest,
};
use fluxmq::config::{
    ClientCertificates, Listeners, SecureWebListener, Tls, TlsListener, Web, WebListener,
};
use fluxmq::model::QoS;
use fluxmq::protocol::mqtt::ReasonCode;
use fluxmq::protocol::mqtt::types::SubscribeFilter;

use tokio::time::timeout;

use super::support::{Authority, Broker, local};

const PATIENCE: Duration = Duration::from_secs(20);

async fn connect(endpoint: &Endpoint) -> Result<Client, ClientError> {
    let (options, mut session) = (ConnectOptions::default(), Session::default());
    Ok(Client::connect_to(endpoint, &options, &mut session, PATIENCE).await?.0)
}

/// Publishes more than fits into any buffer, and takes it back.
async fn talk(mut client: Client) {
    let filter = SubscribeFilter::new(Bytes::from_static(b"t/#"), QoS::AtLeastOnce);
    let subscribe = SubscribeRequest { filters: vec![filter], ..SubscribeRequest::default() };
    client.subscribe(1, &subscribe).unwrap();
    let payload: Bytes = (0..300_000u32).map(|index| (index % 251) as u8).collect();
    for token in 0..8 {
        let request = PublishRequest {
            topic: Bytes::from_static(b"t/x"),
            payload: payload.clone(),
            qos: QoS::AtLeastOnce,
            ..PublishRequest::default()
        };
        client.publish(token, &request).unwrap();
    }
    let (mut confirmed, mut received) = (0, 0);
    while confirmed < 8 || received < 8 {
        match timeout(PATIENCE, client.next()).await.unwrap().unwrap() {
            Event::Published { .. } => confirmed += 1,
            Event::Message(message) => {
                assert!(message.payload == payload);
                received += 1;
                client.acknowledge(message.handle.unwrap(), ReasonCode::SUCCESS);
            }
            _ => {}
        }
    }
    client.disconnect(ReasonCode::SUCCESS, None).await.1.unwrap();
}

#[tokio::test]
async fn the_client_speaks_over_every_kind_of_listener() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new(dir.path(), "ca");
    let (certificate, key) = authority.sign("broker");
    let tls = Tls {
        certificate,
        key,
        client_certificates: ClientCertificates::Require,
        client_ca: Some(authority.file()),
        ..Tls::default()
    };
    let broker = Broker::start(Listeners {
        mqtt: vec![local()],
        mqtts: vec![TlsListener { socket: local(), tls: tls.clone() }],
        ws: vec![WebListener { socket: local(), web: Web::default() }],
        wss: vec![SecureWebListener { socket: local(), tls, web: Web::default() }],
        ..Listeners::none()
    });
    let own = authority.sign("client");

    for (address, (is_encrypted, is_web)) in
        broker.addresses.iter().zip([(false, false), (true, false), (false, true), (true, true)])
    {
        let tls = TlsOptions {
            authorities: Some(authority.file()),
            certificate: Some(own.clone()),
            server_name: Some("localhost".to_owned()),
            application: is_encrypted.then(|| if is_web { "http/1.1" } else { "mqtt" }.to_owned()),
            ..TlsOptions::default()
        };
        let endpoint = Endpoint {
            tls: is_encrypted.then_some(tls),
            web_path: is_web.then(|| "/mqtt".to_owned()),
            ..Endpoint::tcp("127.0.0.1", address.port())
        };
        talk(connect(&endpoint).await.unwrap()).await;
    }
    broker.stop().await;
}

#[tokio::test]
async fn a_broker_that_is_not_who_it_should_be_is_believed_only_when_asked_to() {
    let dir = tempfile::tempdir().unwrap();
    let (theirs, ours) = (Authority::new(dir.path(), "theirs"), Authority::new(dir.path(), "ours"));
    let (certificate, key) = theirs.sign("broker");
    let tls = Tls { certificate, key, ..Tls::default() };
    let broker = Broker::start(Listeners {
        mqtts: vec![TlsListener { socket: local(), tls }],
        ..Listeners::none()
    });
    let endpoint = |authority: &Authority, is_insecure, name: &str| Endpoint {
        tls: Some(TlsOptions {
            authorities: Some(authority.file()),
            is_insecure,
            server_name: Some(name.to_owned()),
            ..TlsOptions::default()
        }),
        ..Endpoint::tcp("127.0.0.1", broker.address().port())
    };

    let error = |result: Result<Client, ClientError>| result.err().unwrap().to_string();
    let stranger = error(connect(&endpoint(&ours, false, "localhost")).await);
    let misnamed = error(connect(&endpoint(&theirs, false, "other.example")).await);
    assert!(
        stranger.starts_with("TLS failed: ") && stranger.contains("UnknownIssuer"),
        "{stranger}"
    );
    assert!(misnamed.contains("not valid for name"), "{misnamed}");
    talk(connect(&endpoint(&ours, true, "other.example")).await.unwrap()).await;
    broker.stop().await;
}

#[tokio::test]
async fn a_path_that_is_not_served_is_told_in_the_brokers_words() {
    let broker = Broker::start(Listeners {
        ws: vec![WebListener { socket: local(), web: Web::default() }],
        ..Listeners::none()
    });
    let endpoint = Endpoint {
        web_path: Some("/elsewhere".to_owned()),
        ..Endpoint::tcp("127.0.0.1", broker.address().port())
    };

    let error = connect(&endpoint).await.err().unwrap().to_string();

    assert!(error.starts_with("the WebSocket was not opened: answered with 404"), "{error}");
    broker.stop().await;
}
