//! Messages between proxies and control, as `config/proto` describes them; the code is generated, by
//! control/tests/it/wire.rs, and stays as it was written. Cold.
#![allow(missing_docs, reason = "config/proto says what each means")]

pub mod envoy {
    pub mod config {
        pub mod core {
            #[rustfmt::skip]
            pub mod v3;
        }
    }
    pub mod service {
        pub mod discovery {
            #[rustfmt::skip]
            pub mod v3;
        }
    }
}
pub mod evenkeel {
    #[rustfmt::skip]
    pub mod v1;
}
pub mod google {
    #[rustfmt::skip]
    pub mod protobuf;
    #[rustfmt::skip]
    pub mod rpc;
}
