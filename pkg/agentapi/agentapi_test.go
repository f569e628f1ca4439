// SPDX-License-Identifier: Apache-2.0

package agentapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// start serves handler on a socket of the test's own and returns a client.
func start(t *testing.T, handler Handler) Client {
	t.Helper()
	path := filepath.Join(t.TempDir(), "agent.sock")
	listener, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, listener, handler, slog.New(slog.DiscardHandler)) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return Client{Path: path, Timeout: 5 * time.Second}
}

func TestRoundTrip(t *testing.T) {
	want := Endpoint{
		EndpointKey:  EndpointKey{ContainerID: "c1", IfName: "eth0"},
		Netns:        "/run/netns/x",
		HostIfName:   "pb0123456789a",
		HostIfIndex:  7,
		MAC:          "02:00:00:00:00:01",
		Addrs:        []netip.Addr{netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("fd00::2")},
		Generation:   3,
		PodNamespace: "default",
		PodName:      "web-0",
	}
	var pods []Pod
	client := start(t, Handler{
		OpEndpointAdd: Do(func(_ context.Context, e Endpoint) (None, error) {
			pods = append(pods, Pod{Endpoint: e, Attached: true})
			return None{}, nil
		}),
		OpPods: Do(func(context.Context, None) ([]Pod, error) { return pods, nil }),
	})
	if err := client.AddEndpoint(t.Context(), want); err != nil {
		t.Fatal(err)
	}
	got, err := client.Pods(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]Pod{{Endpoint: want, Attached: true}}, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Errorf("pods (-want +got):\n%s", diff)
	}
}

func TestErrors(t *testing.T) {
	client := start(t, Handler{
		OpEndpointAdd: Do(func(context.Context, Endpoint) (None, error) {
			return None{}, fmt.Errorf("add: %w", Errorf(CodeTryLater, "not synced"))
		}),
		OpEndpointDelete: Do(func(context.Context, EndpointDelete) (None, error) { return None{}, errors.New("plain") }),
		OpGC:             Do(func(context.Context, GC) (None, error) { panic("oops") }),
	})
	tests := []struct {
		name string
		call func() error
		want Error
	}{
		{"code kept", func() error { return client.AddEndpoint(t.Context(), Endpoint{}) }, Error{Code: CodeTryLater, Msg: "add: not synced"}},
		{"plain error", func() error { return client.DeleteEndpoint(t.Context(), EndpointDelete{}) }, Error{Code: CodeInternal, Msg: "plain"}},
		{"panic", func() error { return client.GC(t.Context(), "net", nil) }, Error{Code: CodeInternal, Msg: "agent: panic: oops"}},
		{"unknown operation", func() error { _, err := client.Info(t.Context()); return err }, Error{Code: CodeUnknown, Msg: `unknown operation "info"`}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, ok := errors.AsType[*Error](test.call())
			if !ok || *got != test.want {
				t.Errorf("error = %+v, want %+v", got, test.want)
			}
		})
	}
}

func TestUnavailable(t *testing.T) {
	dir := t.TempDir()
	silent := filepath.Join(dir, "silent")
	listener, err := Listen(silent) // accepts in the backlog, answers nothing
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	closed := filepath.Join(dir, "closed")
	gone, err := Listen(closed)
	if err != nil {
		t.Fatal(err)
	}
	gone.Close()
	for _, path := range []string{silent, closed, filepath.Join(dir, "none")} {
		_, err := Client{Path: path, Timeout: 50 * time.Millisecond}.Status(t.Context())
		if !errors.Is(err, ErrUnavailable) {
			t.Errorf("%s: error = %v, want ErrUnavailable", filepath.Base(path), err)
		}
	}
}

func TestBadRequests(t *testing.T) {
	client := start(t, Handler{OpEndpointAdd: Do(func(context.Context, Endpoint) (None, error) { return None{}, nil })})
	tests := []struct{ name, line, want string }{
		{"not JSON", "hello\n", "decode request"},
		{"other version", `{"version":2,"op":"endpoint.add"}` + "\n", "version 2"},
		{"body of another shape", `{"version":1,"op":"endpoint.add","body":[1]}` + "\n", "decode request"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			answer, err := client.exchange(deadline(t), []byte(test.line))
			if err != nil {
				t.Fatal(err)
			}
			var response Response
			if err := json.Unmarshal(answer, &response); err != nil {
				t.Fatal(err)
			}
			if response.Error == nil || response.Error.Code != CodeInvalid || !strings.Contains(response.Error.Msg, test.want) {
				t.Errorf("error = %+v, want code %d and %q", response.Error, CodeInvalid, test.want)
			}
		})
	}
}

func deadline(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func TestListenReplaces(t *testing.T) {
	path := filepath.Join(t.TempDir(), "agent.sock")
	for range 2 {
		listener, err := Listen(path)
		if err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("socket: %v, %v, want mode 0600", info, err)
		}
		conn, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		conn.Close()
		listener.Close() // leaves the path, as a killed agent does
	}
}

func TestReadLine(t *testing.T) {
	tests := []struct {
		name, in string
		limit    int64
		ok       bool
	}{
		{"whole", "abc\n", 10, true},
		{"exactly the limit", "abc\n", 4, true},
		{"cut", "abc", 10, false},
		{"too long", "abcdef\n", 4, false},
		{"nothing", "", 10, false},
	}
	for _, test := range tests {
		if _, err := readLine(strings.NewReader(test.in), test.limit); (err == nil) != test.ok {
			t.Errorf("%s: error = %v, want ok %t", test.name, err, test.ok)
		}
	}
}

func TestReady(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ready")
	if _, err := LastReady(path); !errors.Is(err, ErrNeverReady) {
		t.Errorf("without a file: %v, want ErrNeverReady", err)
	}
	if err := MarkReady(path); err != nil {
		t.Fatal(err)
	}
	if since, err := LastReady(path); err != nil || since > time.Minute {
		t.Errorf("LastReady = %v, %v, want a moment", since, err)
	}
	if err := os.WriteFile(path, []byte(`{"bootID":"another","uptime":1}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := LastReady(path); !errors.Is(err, ErrNeverReady) {
		t.Errorf("mark of another boot: %v, want ErrNeverReady", err)
	}
}

func FuzzAnswer(f *testing.F) {
	f.Add([]byte(`{"version":1,"op":"endpoint.add","body":{"addrs":["10.0.0.1"]}}`))
	handler := Handler{OpEndpointAdd: Do(func(_ context.Context, e Endpoint) (Endpoint, error) { return e, nil })}
	log := slog.New(slog.DiscardHandler)
	f.Fuzz(func(t *testing.T, line []byte) {
		response := handler.answer(t.Context(), line, log)
		if response.Error != nil && response.Error.Code == CodeInternal {
			t.Errorf("answer to %q: %v", line, response.Error)
		}
	})
}
