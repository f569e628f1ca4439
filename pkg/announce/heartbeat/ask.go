// SPDX-License-Identifier: Apache-2.0

package heartbeat

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"
)

// ErrUnheard is returned by Ask while the node isn't heard.
var ErrUnheard = errors.New("node is not heard")

// ErrTooLong is returned by Ask for what fits in no packet.
var ErrTooLong = errors.New("too long to be asked")

// message is a question or an answer between nodes.
type message struct {
	ID   uint64 `json:"id"`
	Kind string `json:"kind,omitempty"`
	Body []byte `json:"body,omitempty"`
	Err  string `json:"err,omitempty"`
}

// asks are the questions under way, and those that this node answers.
type asks struct {
	mu      sync.Mutex
	next    uint64
	waiting map[uint64]chan message
	answers map[string]func([]byte) []byte
	done    map[question]*message // answered, or nil while it is worked on
	order   []question
}

// question names a question by who asked it, in which life.
type question struct {
	node string
	life uint64
	id   uint64
}

const (
	askAgain   = 300 * time.Millisecond
	answersMax = 64
)

func (a *asks) init() {
	a.waiting, a.answers, a.done = map[uint64]chan message{}, map[string]func([]byte) []byte{}, map[question]*message{}
}

// Answer has this node answer questions of a kind. f may take its time; a
// question that is repeated meanwhile is not worked on twice.
func (h *Heartbeat) Answer(kind string, f func(body []byte) []byte) {
	h.asks.mu.Lock()
	defer h.asks.mu.Unlock()
	h.asks.answers[kind] = f
}

// Ask asks a node, and again until it answers or ctx ends. It returns
// ErrUnheard at once if the node isn't heard.
func (h *Heartbeat) Ask(ctx context.Context, node, kind string, body []byte) ([]byte, error) {
	id, reply := h.asks.open()
	defer h.asks.close(id)
	raw, err := json.Marshal(message{ID: id, Kind: kind, Body: body})
	if err != nil || len(raw) > bodyMax {
		return nil, fmt.Errorf("ask %s %s: %w", node, kind, errors.Join(err, ErrTooLong))
	}
	again := time.NewTicker(askAgain)
	defer again.Stop()
	for {
		if err := h.sendAsk(node, raw); err != nil {
			return nil, fmt.Errorf("ask %s %s: %w", node, kind, err)
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("ask %s %s: %w", node, kind, ctx.Err())
		case m := <-reply:
			if m.Err != "" {
				return nil, fmt.Errorf("ask %s %s: %s", node, kind, m.Err)
			}
			return m.Body, nil
		case <-again.C:
		}
	}
}

func (a *asks) open() (uint64, chan message) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.next++
	reply := make(chan message, 1)
	a.waiting[a.next] = reply
	return a.next, reply
}

func (a *asks) close(id uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.waiting, id)
}

// sendAsk sends by the first NIC on which the node is heard.
func (h *Heartbeat) sendAsk(node string, raw []byte) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	p, ok := h.peers[node]
	if !ok || !p.alive {
		return ErrUnheard
	}
	for _, pr := range p.sorted() {
		if pr.alive {
			h.send(p, pr, kindAsk, 0, raw)
			return nil
		}
	}
	return ErrUnheard
}

// asked returns what works on a question and sends the answer.
func (h *Heartbeat) asked(p *peer, pr *pair, body []byte) func() {
	var m message
	if err := json.Unmarshal(body, &m); err != nil {
		return nil
	}
	q := question{p.name, p.life, m.ID}
	done, f := h.asks.begin(q, m.Kind)
	if f == nil {
		if done != nil {
			h.reply(p, pr, *done)
		}
		return nil
	}
	return func() {
		go func() {
			answer := message{ID: m.ID, Body: f(m.Body)}
			h.asks.finish(q, answer)
			h.mu.Lock()
			defer h.mu.Unlock()
			h.reply(p, pr, answer)
		}()
	}
}

// begin returns the answer given before, or what makes one.
func (a *asks) begin(q question, kind string) (*message, func([]byte) []byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if done, ok := a.done[q]; ok {
		return done, nil
	}
	f, ok := a.answers[kind]
	if !ok {
		return &message{ID: q.id, Err: fmt.Sprintf("this node does not answer %q", kind)}, nil
	}
	a.done[q] = nil
	if a.order = append(a.order, q); len(a.order) > answersMax {
		delete(a.done, a.order[0])
		a.order = a.order[1:]
	}
	return nil, f
}

func (a *asks) finish(q question, m message) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, ok := a.done[q]; ok {
		a.done[q] = &m
	}
}

func (h *Heartbeat) reply(p *peer, pr *pair, m message) {
	raw, err := json.Marshal(m)
	if err != nil || len(raw) > bodyMax {
		raw, _ = json.Marshal(message{ID: m.ID, Err: "the answer is too long"}) // can be encoded
	}
	h.send(p, pr, kindAnswer, 0, raw)
}

// answer hands an answer to who waits for it.
func (a *asks) answer(_ string, body []byte) {
	var m message
	if err := json.Unmarshal(body, &m); err != nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if reply, ok := a.waiting[m.ID]; ok {
		select {
		case reply <- m:
		default:
		}
	}
}
