//! The service behind `evenkeel up`: says what reached it, so that a newcomer sees what the gateway did. Cold.

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

/// Starts the service on a thread of its own, which lives as long as the process, and returns its address.
pub fn start() -> io::Result<SocketAddr> {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("demo".into()).spawn(move || runtime.block_on(serve(listener)))?;
    Ok(address)
}

async fn serve(listener: std::net::TcpListener) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return eprintln!("demo service: {error}"),
    };
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer));
                tokio::spawn(async move {
                    // A caller that breaks off is the demonstration's business.
                    let _ = connection.await;
                });
            }
            Err(_) => tokio::time::sleep(std::time::Duration::from_millis(50)).await,
        }
    }
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let mut body = format!("{} {}\n", request.method(), request.uri());
    for (name, value) in request.headers() {
        body.push_str(&format!("{name}: {}\n", String::from_utf8_lossy(value.as_bytes())));
    }
    let mut response = Response::new(Full::new(Bytes::from(body)));
    response.headers_mut().insert("content-type", hyper::header::HeaderValue::from_static("text/plain"));
    Ok(response)
}
