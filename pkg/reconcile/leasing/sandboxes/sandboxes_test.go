// SPDX-License-Identifier: Apache-2.0

package sandboxes

import (
	"encoding/binary"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// serve is a runtime that answers with a message, or with a status.
func serve(t *testing.T, message []byte, status string) string {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "runtime.sock")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	server := &http.Server{Protocols: protocols, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/runtime.v1.RuntimeService/ListPodSandbox" || r.Header.Get("Content-Type") != "application/grpc" {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", "application/grpc")
		w.Header().Set("Trailer", "Grpc-Status, Grpc-Message")
		if message != nil {
			_, _ = w.Write(append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message))), message...))
		}
		w.Header().Set("Grpc-Status", status)
		w.Header().Set("Grpc-Message", "told so")
	})}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { server.Close() })
	return socket
}

// sandbox is one item: its id, a state, and a name in a message of its own.
func sandbox(id string) []byte {
	item := append([]byte{1<<3 | 2, byte(len(id))}, id...)
	item = append(item, 2<<3|2, 3, 1<<3|2, 1, 'x', 3<<3, 1)
	return append([]byte{1<<3 | 2, byte(len(item))}, item...)
}

func TestList(t *testing.T) {
	ids, err := List(t.Context(), serve(t, append(sandbox("a1"), sandbox("b2")...), "0"))
	if err != nil || !slices.Equal(ids, []string{"a1", "b2"}) {
		t.Errorf("ids %v, %v, want a1 and b2", ids, err)
	}
	if ids, err := List(t.Context(), serve(t, []byte{}, "0")); err != nil || ids == nil || len(ids) != 0 {
		t.Errorf("of none: %v, %v", ids, err)
	}
	if _, err := List(t.Context(), serve(t, nil, "12")); err == nil || !strings.Contains(err.Error(), "told so") {
		t.Errorf("refused: %v, want what was told", err)
	}
	if _, err := List(t.Context(), serve(t, []byte{1<<3 | 2, 200, 1}, "0")); err == nil {
		t.Error("cut short: no error")
	}
	if _, err := List(t.Context(), filepath.Join(t.TempDir(), "none")); err == nil {
		t.Error("no socket: no error")
	}
	socket := serve(t, nil, "0")
	if got := Find([]string{"/none", socket}); got != socket {
		t.Errorf("found %q, want %q", got, socket)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(append(sandbox("a1"), sandbox("b2")...))
	f.Fuzz(func(_ *testing.T, message []byte) { _, _ = parse(message) })
}
