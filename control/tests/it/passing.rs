//! What passes through: requests and answers of every framing, their order, and what the service is told.

use e2e::kit::{Backend, Ended, Gateway, Message, Peer, Rules, until};

/// A gateway in front of one backend.
fn serve(backend: &Backend) -> Gateway {
    Gateway::start(&Rules::to(backend.address()))
}

/// An answer to a request of a client that stays.
fn ask(client: &mut Peer, request: &str) -> Message {
    assert!(client.send(request), "{request:?}");
    client.read_answer(request.starts_with("HEAD")).unwrap_or_else(|ended| panic!("{ended:?} after {request:?}"))
}

/// One line for a message: start, body, trailers.
fn short(message: &Message) -> String {
    let trailers: Vec<String> = message.trailers.iter().map(|(name, value)| format!("{name}={value}")).collect();
    format!("{}|{}|{}", message.start, message.text(), trailers.join(","))
}

#[test]
fn answers_of_every_framing_reach_clients_of_both_versions() {
    // What the service sends; whether it then closes; what a client of HTTP/1.1 and one of HTTP/1.0 get.
    let rows: [(&str, bool, &str, &str); 13] = [
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
            false,
            "HTTP/1.1 200 OK|hello|",
            "HTTP/1.1 200 OK|hello|",
        ),
        ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", false, "HTTP/1.1 200 OK||", "HTTP/1.1 200 OK||"),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n3;x=y\r\n!!!\r\n0\r\n\r\n",
            false,
            "HTTP/1.1 200 OK|hello!!!|",
            "HTTP/1.1 200 OK|hello!!!|",
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: sum\r\n\r\n5\r\nhello\r\n0\r\nsum: 7\r\n\r\n",
            false,
            "HTTP/1.1 200 OK|hello|sum=7",
            "HTTP/1.1 200 OK|hello|",
        ),
        (
            "HTTP/1.1 200 OK\r\n\r\nuntil the end",
            true,
            "HTTP/1.1 200 OK|until the end|",
            "HTTP/1.1 200 OK|until the end|",
        ),
        ("HTTP/1.0 200 OK\r\n\r\nold", true, "HTTP/1.1 200 OK|old|", "HTTP/1.1 200 OK|old|"),
        ("HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nold", true, "HTTP/1.1 200 OK|old|", "HTTP/1.1 200 OK|old|"),
        ("HTTP/1.1 204 No Content\r\n\r\n", false, "HTTP/1.1 204 No Content||", "HTTP/1.1 204 No Content||"),
        (
            "HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n",
            false,
            "HTTP/1.1 304 Not Modified||",
            "HTTP/1.1 304 Not Modified||",
        ),
        ("HTTP/1.1 404 \r\nContent-Length: 0\r\n\r\n", false, "HTTP/1.1 404 ||", "HTTP/1.1 404 ||"),
        ("HTTP/1.1 404\r\nContent-Length: 0\r\n\r\n", false, "HTTP/1.1 404 ||", "HTTP/1.1 404 ||"),
        (
            "HTTP/1.1 299 Our Own\r\nContent-Length: 1\r\n\r\nx",
            false,
            "HTTP/1.1 299 Our Own|x|",
            "HTTP/1.1 299 Our Own|x|",
        ),
        (
            "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx",
            false,
            "HTTP/1.1 103 Early Hints||;HTTP/1.1 200 OK|x|",
            "HTTP/1.1 200 OK|x|",
        ),
    ];
    for (answer, closes, expected, expected_of_old) in rows {
        let backend =
            Backend::start(move |served| while served.request().is_some() && served.peer.send(answer) && !closes {});
        let gateway = serve(&backend);
        for (request, expected, keeps) in [
            ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", expected, true),
            ("GET / HTTP/1.0\r\nHost: a\r\n\r\n", expected_of_old, false),
        ] {
            let mut client = gateway.connect();
            client.send(request);
            let mut got = Vec::new();
            for _ in expected.split(';') {
                got.push(short(&client.read().unwrap_or_else(|ended| panic!("{ended:?}: {answer:?} to {request:?}"))));
            }
            assert_eq!(got.join(";"), expected, "{answer:?} to {request:?}");
            match keeps {
                true => assert_eq!(short(&ask(&mut client, request)), got[0], "again: {answer:?}"),
                false => assert_eq!(client.outcome(), "closed", "{answer:?} to {request:?}"),
            }
        }
        gateway.settle();
    }
}

#[test]
fn requests_of_every_framing_reach_the_service() {
    let backend = Backend::echo();
    let gateway = serve(&backend);
    let rows = [
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", "GET / HTTP/1.1||"),
        ("DELETE / HTTP/1.1\r\nHost: a\r\n\r\n", "DELETE / HTTP/1.1||"),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello", "POST / HTTP/1.1|hello|"),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0005\r\n\r\nhello", "POST / HTTP/1.1|hello|"),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", "POST / HTTP/1.1||"),
        ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello", "GET / HTTP/1.1|hello|"),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n5\r\nhello\r\n1;a=\"b\"\r\n!\r\n000\r\n\r\n",
            "POST / HTTP/1.1|hello!|",
        ),
        (
            "PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nSum: 7\r\nx_y: z\r\n\r\n",
            "PUT / HTTP/1.1|hello|Sum=7",
        ),
        ("POST / HTTP/1.0\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello", "POST / HTTP/1.1|hello|"),
        ("\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", "GET / HTTP/1.1||"),
        ("FROB / HTTP/1.1\r\nHost: a\r\n\r\n", "FROB / HTTP/1.1||"),
        ("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", "OPTIONS * HTTP/1.1||"),
        ("GET /?x=%zz&y=a/../b HTTP/1.1\r\nHost: a\r\n\r\n", "GET /?x=%zz&y=a/../b HTTP/1.1||"),
        ("GET http://b.example:80/x?y HTTP/1.1\r\nHost: a\r\n\r\n", "GET /x?y HTTP/1.1||"),
        ("GET /a/./b/../c//d\\e/%7euser/%2f HTTP/1.1\r\nHost: a\r\n\r\n", "GET /a/c/d/e/~user/%2F HTTP/1.1||"),
    ];
    for (request, expected) in rows {
        for cut in 0..=request.len() {
            let mut client = gateway.connect();
            client.send_cut(request.as_bytes(), cut);
            let answer = client.read().unwrap_or_else(|ended| panic!("{ended:?}: {request:?} cut at {cut}"));
            let seen = backend.only_request();
            assert_eq!((answer.status(), short(&seen)), (200, expected.into()), "{request:?} cut at {cut}");
            assert_eq!(answer.body, seen.body, "{request:?} cut at {cut}");
        }
    }
    gateway.settle();
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let backend = Backend::echo();
    let gateway = serve(&backend);
    let mut all = String::new();
    for number in 0..50 {
        let body = "b".repeat(number);
        all += &match number % 3 {
            0 => "GET / HTTP/1.1\r\nHost: a\r\n\r\n".into(),
            1 => format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {number}\r\n\r\n{body}"),
            _ => format!(
                "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{number:x}\r\n{body}\r\n0\r\n\r\n"
            ),
        };
    }
    all += "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\nGET /never HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut client = gateway.connect();
    client.send(&all);
    for number in 0..50 {
        let answer = client.read().unwrap_or_else(|ended| panic!("{ended:?} instead of answer {number}"));
        assert_eq!((answer.status(), answer.body.len()), (200, if number % 3 == 0 { 0 } else { number }));
    }
    let last = client.read().expect("an answer");
    assert_eq!((last.status(), last.get("connection")), (200, Some("close")));
    assert_eq!(client.outcome(), "closed");
    assert_eq!(backend.connections(), 1, "one connection is enough for requests one after the other");
    assert!(backend.requests().iter().all(|request| !request.start.contains("never")));
}

#[test]
fn answers_to_head_keep_their_length_and_have_no_body() {
    let backend = Backend::canned("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\nX-A: b\r\n\r\n");
    let gateway = serve(&backend);
    let mut client = gateway.connect();
    for _ in 0..3 {
        let answer = ask(&mut client, "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!((answer.get("content-length"), answer.get("X-A")), (Some("1000"), Some("b")));
    }
    assert_eq!(backend.connections(), 1);
}

#[test]
fn clients_that_wait_for_100_continue_get_it_from_the_service() {
    // The head of the final answer, what was seen in between.
    for (interim, expected) in [("HTTP/1.1 100 Continue\r\n\r\n", "100 200"), ("", "417")] {
        let backend = Backend::start(move |served| {
            let head = served.request_head().expect("a request");
            assert_eq!(head.get("expect"), Some("100-continue"));
            if interim.is_empty() {
                served.peer.send("HTTP/1.1 417 Expectation Failed\r\nContent-Length: 0\r\n\r\n");
                return;
            }
            served.peer.send(interim);
            assert_eq!(served.peer.take(5).expect("the body"), b"hello");
            served.peer.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        });
        let gateway = serve(&backend);
        let mut client = gateway.connect();
        client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n");
        let mut statuses = vec![client.read().expect("an answer").status()];
        if statuses == [100] {
            client.send("hello");
            statuses.push(client.read().expect("an answer").status());
        }
        assert_eq!(statuses.iter().map(u16::to_string).collect::<Vec<_>>().join(" "), expected);
    }
}

#[test]
fn connections_of_http_1_0_are_kept_where_both_want_it() {
    let backend = Backend::echo();
    let gateway = serve(&backend);
    let rows = [
        ("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", Some("keep-alive")),
        ("GET / HTTP/1.0\r\n\r\n", Some("close")),
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", None),
        ("GET / HTTP/1.1\r\nHost: a\r\nConnection: Close\r\n\r\n", Some("close")),
        ("GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, close\r\n\r\n", Some("close")),
    ];
    for (request, expected) in rows {
        let mut client = gateway.connect();
        let answer = ask(&mut client, request);
        assert_eq!(answer.get("connection"), expected, "{request:?}");
        match expected {
            Some("close") => assert_eq!(client.outcome(), "closed"),
            _ => assert_eq!(ask(&mut client, request).status(), 200),
        }
    }
}

#[test]
fn websockets_are_refused_and_other_upgrades_ignored() {
    let backend = Backend::echo();
    let gateway = serve(&backend);
    let ask_for = |protocol: &str| {
        let mut client = gateway.connect();
        let answer = ask(
            &mut client,
            &format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: {protocol}\r\n\r\n"),
        );
        answer.status()
    };
    assert_eq!(ask_for("websocket"), 501);
    assert_eq!(backend.connections(), 0);
    assert_eq!(ask_for("h2c"), 200);
    assert_eq!(backend.only_request().get("upgrade"), None);
}

#[test]
fn answers_without_a_date_get_one() {
    let backend = Backend::start(|served| {
        while let Some(request) = served.request() {
            let date = request.get("x-date").map_or(String::new(), |date| format!("Date: {date}\r\n"));
            served.peer.send(format!("HTTP/1.1 200 OK\r\n{date}Content-Length: 0\r\n\r\n"));
        }
    });
    let gateway = serve(&backend);
    let mut client = gateway.connect();
    let dated = ask(&mut client, "GET / HTTP/1.1\r\nHost: a\r\nX-Date: yesterday\r\n\r\n");
    assert_eq!((dated.get("date"), dated.count("date")), (Some("yesterday"), 1));
    let dateless = ask(&mut client, "GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(dateless.get("date").is_some_and(|date| date.ends_with(" GMT")), "{:?}", dateless.get("date"));
}

#[test]
fn an_answer_arrives_whole_though_the_client_goes_on_sending() {
    const LENGTH: usize = 2_000_000;
    let mut answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {LENGTH}\r\n\r\n").into_bytes();
    answer.resize(answer.len() + LENGTH, b'x');
    let backend = Backend::canned(answer);
    let gateway = serve(&backend);
    let mut client = gateway.connect();
    client.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    assert_eq!(client.read_head().map(|head| head.status()), Ok(200));
    client.send("\r\n");
    until("all of it in the hands of the kernel", || (gateway.stat("requestsInFlight") == [0]).then_some(()));
    assert_eq!(client.take(LENGTH).map(|body| body.len()), Ok(LENGTH));
    client.finish();
    assert_eq!(client.read_to_end(), Ended::Closed);
}

#[test]
fn a_refused_head_gets_no_body() {
    let backend = Backend::echo();
    let gateway = serve(&backend);
    for refused in ["HEAD / HTTP/1.1\r\n\r\n", "HEAD / HTTP/1.1\r\nHost: a\r\nbad\r\n\r\n"] {
        let mut client = gateway.connect();
        client.send(refused);
        assert_eq!(client.read_answer(true).map(|answer| answer.status()), Ok(400), "{refused:?}");
        assert_eq!(client.read_to_end(), Ended::Closed, "{refused:?}");
    }
}

#[test]
fn options_and_trace_count_their_hops() {
    let backend = Backend::echo();
    let gateway = serve(&backend);
    let mut client = gateway.connect();
    for (request, status, forwarded) in [
        ("OPTIONS * HTTP/1.1\r\nHost: a\r\nMax-Forwards: 0\r\n\r\n", 200, None),
        ("TRACE / HTTP/1.1\r\nHost: a\r\nMax-Forwards: 0\r\n\r\n", 501, None),
        ("OPTIONS / HTTP/1.1\r\nHost: a\r\nmax-forwards: 2\r\n\r\n", 200, Some("1")),
        ("GET / HTTP/1.1\r\nHost: a\r\nMax-Forwards: 0\r\n\r\n", 200, Some("0")),
    ] {
        let before = backend.requests().len();
        assert_eq!(ask(&mut client, request).status(), status, "{request:?}");
        let requests = backend.requests();
        assert_eq!(requests.get(before).and_then(|request| request.get("max-forwards")), forwarded, "{request:?}");
    }
}

#[test]
fn idle_connections_end_without_a_word() {
    let backend = Backend::echo();
    let gateway = Gateway::start(&Rules::to(backend.address()).policy("timeouts: {idle: 150ms}"));
    let mut client = gateway.connect();
    assert_eq!(ask(&mut client, "GET / HTTP/1.1\r\nHost: a\r\n\r\n").status(), 200);
    assert_eq!(client.outcome(), "closed");
    gateway.settle();
}
