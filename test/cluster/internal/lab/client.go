// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// Held is a connection of the outside client, for requests one after the other.
type Held struct {
	conn   net.Conn
	reader *bufio.Reader
	server netip.AddrPort
}

// Get fetches url's path from server as the outside client, over a
// connection of its own.
func (l *Lab) Get(ctx context.Context, server netip.AddrPort, path string) ([]byte, error) {
	held, err := l.Hold(ctx, server)
	if err != nil {
		return nil, err
	}
	defer held.Close()
	body, err := held.Get(path)
	return []byte(body), err
}

// Hold connects the outside client to server.
func (l *Lab) Hold(ctx context.Context, server netip.AddrPort) (*Held, error) {
	type result struct {
		conn net.Conn
		err  error
	}
	done := make(chan result, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		conn, err := l.dial(ctx, server)
		done <- result{conn, err}
	}()
	r := <-done
	if r.err != nil {
		return nil, r.err
	}
	return &Held{r.conn, bufio.NewReader(r.conn), server}, nil
}

// patience is how long the client waits for a connection, and for an answer.
const patience = 5 * time.Second

func (l *Lab) dial(ctx context.Context, server netip.AddrPort) (net.Conn, error) {
	ns, err := os.Open(filepath.Join(netnsDir, l.Netns("client")))
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
		return nil, fmt.Errorf("enter client: %w", err)
	}
	dialer := net.Dialer{Timeout: patience}
	return dialer.DialContext(ctx, "tcp", server.String())
}

// Close ends the connection.
func (h *Held) Close() error { return h.conn.Close() }

// Get fetches path over the connection.
func (h *Held) Get(path string) (string, error) {
	if err := h.conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return "", err
	}
	if _, err := fmt.Fprintf(h.conn, "GET %s HTTP/1.1\r\nHost: %s\r\n\r\n", path, h.server); err != nil {
		return "", err
	}
	response, err := http.ReadResponse(h.reader, nil)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("GET %s: %s: %s", path, response.Status, body)
	}
	return string(body), err
}

// Reaches tells whether argv succeeds as the outside client while it has a
// route to addr through the node m.
func (l *Lab) Reaches(ctx context.Context, m Machine, addr netip.Addr, argv ...string) (bool, error) {
	via := m.External.V4.Addr()
	if addr.Is6() {
		via = m.External.V6.Addr()
	}
	netns := l.Netns("client")
	route := fmt.Sprintf("%s via %s", addr, via)
	if err := ipBatch(ctx, netns, "route replace "+route); err != nil {
		return false, err
	}
	failed := l.Client(ctx, argv...).Run()
	return failed == nil, ipBatch(ctx, netns, "route del "+route)
}
