# h11 behind one line per request; see parser.rs.
import sys
import h11


def judge(data):
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=64 * 1024)
    connection.receive_data(data)
    request, body = None, b""
    try:
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                return "unfinished"
            if isinstance(event, h11.Request):
                request = event
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                fields = "".join(f"{bytes(n).hex()}:{bytes(v).hex()}," for n, v in request.headers)
                end = len(data) - len(connection.trailing_data[0])
                return f"ok {request.method.hex()} {request.target.hex()} {fields} {body.hex()} {end}"
            else:
                return f"refused {event!r}"
    except h11.RemoteProtocolError as error:
        return f"refused {error}".replace("\n", " ")


for line in sys.stdin:
    print(judge(bytes.fromhex(line.strip())), flush=True)
