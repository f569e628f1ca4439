// SPDX-License-Identifier: Apache-2.0

package appliance

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"

	"github.com/patchbay-net/patchbay/test/netlab"
)

// ServerPort is where everybody who can be reached listens.
const ServerPort = 8080

// patience is how long an attempt to connect may take.
const patience = 700 * time.Millisecond

// Serve answers connections in a namespace, on both families, with a name and
// the address that the caller was seen with, and then with whatever is said.
func Serve(tb netlab.TB, ns *netlab.Namespace, name string) {
	tb.Helper()
	err := ns.Do(func() error {
		l, err := net.Listen("tcp", fmt.Sprintf(":%d", ServerPort))
		if err != nil {
			return err
		}
		tb.Cleanup(func() { l.Close() })
		go func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				go func() {
					defer conn.Close()
					fmt.Fprintf(conn, "%s %s\n", name, netip.MustParseAddrPort(conn.RemoteAddr().String()).Addr().Unmap())
					_, _ = io.Copy(conn, conn)
				}()
			}
		}()
		return nil
	})
	if err != nil {
		tb.Fatalf("serve as %s: %v", name, err)
	}
}

// Ways counts TCP's first packets, by the client's port, as they pass the
// device's two ports.
type Ways struct {
	captures map[string]*netlab.Capture
	next     atomic.Int32 // client's port
}

// firstPort is the client's port of the first attempt.
const firstPort = 20000

// Watch captures on both ports of the device from now on.
func (a *Appliance) Watch() *Ways {
	w := &Ways{captures: map[string]*netlab.Capture{}}
	for _, port := range []string{"port2", "port3"} {
		w.captures[port] = netlab.NewCapture(a.tb, a.Device.Net, port)
	}
	w.next.Store(firstPort)
	return w
}

// Answer is what became of an attempt.
type Answer struct {
	// Name is the server's, Seen the address that it saw the client with.
	Name, Seen string
	// Ports are those of the device that the first packet passed, in or out,
	// with a space between; Back those that the first answer passed.
	Ports, Back string
	Err         error

	client uint16 // its port
}

// Try connects from a namespace to an address and port.
func (w *Ways) Try(from *netlab.Namespace, to netip.AddrPort) (a Answer) {
	source := w.next.Add(1)
	a.client = uint16(source)
	var conn net.Conn
	a.Err = from.Do(func() (err error) {
		dialer := net.Dialer{Timeout: patience, LocalAddr: &net.TCPAddr{Port: int(source)}}
		conn, err = dialer.Dial("tcp", to.String())
		return err
	})
	if a.Err == nil {
		defer conn.Close()
		line := make([]byte, 256)
		_ = conn.SetReadDeadline(time.Now().Add(patience))
		n, err := conn.Read(line)
		a.Err = err
		a.Name, a.Seen, _ = strings.Cut(strings.TrimSpace(string(line[:n])), " ")
	}
	a.Ports, a.Back = w.passed(a.client, 0, 0x02), w.passed(a.client, 2, 0x12)
	return a
}

// passed names the device's ports that a segment passed with the client's port at
// that place of its header, and those flags.
func (w *Ways) passed(client uint16, at int, flags byte) string {
	var ports []string
	for _, port := range []string{"port2", "port3"} {
		if w.captures[port].Count(func(f netlab.Frame) bool { return isSegment(f.Data, client, at, flags) }) > 0 {
			ports = append(ports, port)
		}
	}
	return strings.Join(ports, " ")
}

// isSegment tells whether a frame holds a TCP segment with these SYN and ACK
// flags and that port, at 0 the source and at 2 the destination.
func isSegment(frame []byte, port uint16, at int, flags byte) bool {
	const ethernet, v4, v6, tcp = 14, 20, 40, 20
	if len(frame) < ethernet+v4+tcp {
		return false
	}
	var header []byte
	switch {
	case bytes.Equal(frame[12:14], []byte{8, 0}) && frame[ethernet+9] == 6:
		header = frame[ethernet+v4:]
	case bytes.Equal(frame[12:14], []byte{0x86, 0xdd}) && frame[ethernet+6] == 6 && len(frame) >= ethernet+v6+tcp:
		header = frame[ethernet+v6:]
	default:
		return false
	}
	return binary.BigEndian.Uint16(header[at:]) == port && header[13]&0x12 == flags
}

// Held is a connection that both ends speak on all the time.
type Held struct {
	What string
	conn net.Conn
	gap  chan time.Duration
}

// Hold connects from a namespace to a server and keeps talking.
func Hold(tb netlab.TB, what string, from *netlab.Namespace, to netip.AddrPort) *Held {
	tb.Helper()
	h := &Held{What: what, gap: make(chan time.Duration, 1)}
	netlab.WaitFor(tb, 10*time.Second, what, func() error {
		return from.Do(func() (err error) {
			h.conn, err = net.DialTimeout("tcp", to.String(), patience)
			return err
		})
	})
	go h.speak()
	return h
}

// pause is between two words.
const pause = 5 * time.Millisecond

// speak says a word and waits for it to come back, until the connection ends.
func (h *Held) speak() {
	word, buffer := []byte{'.'}, make([]byte, 256)
	longest := time.Duration(0)
	defer func() { h.gap <- longest }()
	for {
		began := time.Now()
		if _, err := h.conn.Write(word); err != nil {
			return
		}
		for heard := false; !heard; {
			n, err := h.conn.Read(buffer)
			if err != nil {
				return
			}
			heard = bytes.Contains(buffer[:n], word)
		}
		longest = max(longest, time.Since(began))
		<-time.After(pause)
	}
}

// End returns the longest time that a word took, and an error if the connection was lost.
func (h *Held) End() (time.Duration, error) {
	select {
	case gap := <-h.gap:
		return gap, errors.New("the connection is lost")
	default:
		h.conn.Close()
		return <-h.gap, nil
	}
}
