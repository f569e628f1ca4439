// SPDX-License-Identifier: Apache-2.0

// Package sandboxes asks the container runtime which pod sandboxes it has. It
// speaks the one call of the CRI that this takes, over the standard library's
// HTTP/2: gRPC and its messages would be a tenth of the agent.
//
//	ids, err := sandboxes.List(ctx, "/run/containerd/containerd.sock")
package sandboxes

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"time"
)

// Sockets are where runtimes listen, the usual ones.
func Sockets() []string {
	return []string{"/run/containerd/containerd.sock", "/run/crio/crio.sock"}
}

// Find returns the first socket that is there, empty if none is.
func Find(paths []string) string {
	for _, path := range paths {
		if info, err := os.Stat(path); err == nil && info.Mode()&fs.ModeSocket != 0 {
			return path
		}
	}
	return ""
}

const (
	timeout  = 5 * time.Second
	maxReply = 16 << 20
	method   = "http://runtime/runtime.v1.RuntimeService/ListPodSandbox"
)

var errReply = errors.New("reply can't be read")

// List returns the ids of all sandboxes, of ended ones too.
func List(ctx context.Context, socket string) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	transport := &http.Transport{
		Protocols: protocols, DisableCompression: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
	}
	defer transport.CloseIdleConnections()
	body, err := call(ctx, transport)
	if err != nil {
		return nil, fmt.Errorf("list sandboxes of %s: %w", socket, err)
	}
	ids, err := parse(body)
	if err != nil {
		return nil, fmt.Errorf("list sandboxes of %s: %w", socket, err)
	}
	return ids, nil
}

// call makes the call: a message is a byte, its length and itself; the status comes
// behind it.
func call(ctx context.Context, transport http.RoundTripper) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, method, bytes.NewReader(make([]byte, 5))) // an empty message
	if err != nil {
		return nil, err
	}
	request.Header.Set("Content-Type", "application/grpc")
	request.Header.Set("TE", "trailers")
	response, err := transport.RoundTrip(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(response.Body, maxReply))
	if err != nil {
		return nil, err
	}
	status, text := response.Trailer.Get("Grpc-Status"), response.Trailer.Get("Grpc-Message")
	if status == "" {
		status, text = response.Header.Get("Grpc-Status"), response.Header.Get("Grpc-Message")
	}
	if response.StatusCode != http.StatusOK || status != "0" {
		return nil, fmt.Errorf("refused with %s, status %q: %s", response.Status, status, text)
	}
	if len(raw) < 5 || raw[0] != 0 || int(binary.BigEndian.Uint32(raw[1:])) != len(raw)-5 {
		return nil, errReply
	}
	return raw[5:], nil
}

// parse reads the ids: of each item, the message's field 1, again field 1.
func parse(message []byte) ([]string, error) {
	ids := []string{}
	for item, err := range fields(message) {
		if err != nil {
			return nil, err
		}
		for id, err := range fields(item) {
			if err != nil {
				return nil, err
			}
			ids = append(ids, string(id))
			break
		}
	}
	return ids, nil
}

// fields goes over what a message has under field 1 with a length.
func fields(message []byte) func(func([]byte, error) bool) {
	return func(yield func([]byte, error) bool) {
		for len(message) > 0 {
			tag, n := binary.Uvarint(message)
			if n <= 0 {
				yield(nil, errReply)
				return
			}
			message = message[n:]
			size := uint64(0)
			switch tag & 7 {
			case 0: // a number
				_, n = binary.Uvarint(message)
			case 1:
				n, size = 1, 7
			case 5:
				n, size = 1, 3
			case 2:
				size, n = binary.Uvarint(message)
			default:
				n = 0
			}
			if n <= 0 || n > len(message) || size > uint64(len(message)-n) {
				yield(nil, errReply)
				return
			}
			value := message[n : n+int(size)]
			message = message[n+int(size):]
			if tag == 1<<3|2 && !yield(value, nil) {
				return
			}
		}
	}
}
