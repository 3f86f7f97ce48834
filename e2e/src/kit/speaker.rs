//! A proxy that speaks for an instance, as control sees it: a real stream, and what a test says on it. Cold.

use std::time::Duration;

use config::wire::evenkeel::v1::{Ending, Forgetting, JoinRequest, JoinResponse, Member, Phase};
use proxy::rpc::registry_client::RegistryClient;
use tokio::runtime::Handle;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tonic::transport::Channel;
use tonic::{Request, Status, Streaming};

use super::PATIENCE;

/// Whoever speaks.
pub struct Speaker {
    runtime: Handle,
    sender: UnboundedSender<JoinRequest>,
    responses: Streaming<JoinResponse>,
}

impl Speaker {
    /// Speaks for an instance from now on, on the connection of its proxy.
    pub(super) fn open(runtime: &Handle, channel: Channel, token: Option<&str>, member: Member) -> Speaker {
        let (sender, mut receiver) = unbounded_channel();
        let first = JoinRequest { member: Some(member), phase: Phase::Starting.into(), ..JoinRequest::default() };
        sender.send(first).expect("it is open");
        let mut request = Request::new(futures_util::stream::poll_fn(move |context| receiver.poll_recv(context)));
        if let Some(token) = token {
            request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().expect("a token"));
        }
        let responses = runtime.block_on(async { RegistryClient::new(channel).join(request).await });
        Speaker { runtime: runtime.clone(), sender, responses: responses.expect("a stream").into_inner() }
    }

    /// Says how far the instance is.
    pub fn say(&self, phase: Phase) {
        self.send(JoinRequest { phase: phase.into(), ..JoinRequest::default() });
    }

    /// Says that it goes.
    pub fn drain(&self, within: Duration) {
        let drain_within_ms = within.as_millis() as u64;
        self.send(JoinRequest { phase: Phase::Draining.into(), drain_within_ms, ..JoinRequest::default() });
    }

    /// Says that it has gone.
    pub fn end(&self, ending: Ending) {
        self.send(JoinRequest { phase: Phase::Ended.into(), ending: Some(ending), ..JoinRequest::default() });
    }

    fn send(&self, request: JoinRequest) {
        // Where control has ended the stream, that is noticed where it is read.
        let _ = self.sender.send(request);
    }

    /// What control says next.
    pub fn hear(&mut self) -> Result<JoinResponse, Status> {
        let heard = self.runtime.block_on(async { tokio::time::timeout(PATIENCE, self.responses.message()).await });
        heard.expect("an answer in time").map(|response| response.expect("the stream goes on"))
    }

    /// Listens until control says that it is so.
    pub fn hear_until(&mut self, is_so: impl Fn(&JoinResponse) -> bool) -> JoinResponse {
        loop {
            let response = self.hear().expect("an answer");
            if is_so(&response) {
                return response;
            }
        }
    }

    /// Listens until callers are to forget it; who they are.
    pub fn wait_for_mark(&mut self) -> Forgetting {
        self.hear_until(|response| response.forgetting.is_some()).forgetting.expect("it is there")
    }

    /// Listens until control has it that far.
    pub fn wait_for(&mut self, phase: Phase) -> JoinResponse {
        self.hear_until(|response| response.phase() == phase)
    }
}
