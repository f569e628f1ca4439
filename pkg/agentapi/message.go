// SPDX-License-Identifier: Apache-2.0

// Package agentapi is the agent's unix-socket API: its messages, a client
// light enough for a binary that is started once per pod, and the server that
// the agent runs.
//
// A connection carries one request and one response, each one line of JSON.
// There is no HTTP and no stream; whoever wants to follow a value asks again.
// The socket belongs to root and has mode 0600, that is all the authentication
// there is.
//
//	client := agentapi.Client{Path: agentapi.DefaultSocket, Timeout: 10 * time.Second}
//	err := client.AddEndpoint(ctx, endpoint)
//
// Agent's side:
//
//	listener, err := agentapi.Listen(agentapi.DefaultSocket)
//	err = agentapi.Serve(ctx, listener, agentapi.Handler{
//		agentapi.OpEndpointAdd: agentapi.Do(agent.addEndpoint),
//		agentapi.OpPods:        agentapi.Do(agent.pods),
//	}, log)
package agentapi

import (
	"encoding/json"
	"errors"
	"fmt"
)

// Version is the version of the messages. A server answers requests of its own
// version only; fields may be added without changing it.
const Version = 1

// DefaultSocket is where the agent listens.
const DefaultSocket = "/run/patchbay/agent.sock"

// Op names what a request asks for.
type Op string

// The operations. The first group changes state and is called by the CNI
// plugins, the second reads and is called by the command line.
const (
	OpEndpointAdd    Op = "endpoint.add"    // Endpoint → nothing
	OpEndpointDelete Op = "endpoint.delete" // EndpointDelete → nothing
	OpEndpointCheck  Op = "endpoint.check"  // Endpoint → nothing
	OpGC             Op = "gc"              // GC → nothing
	OpStatus         Op = "status"          // nothing → Status

	OpInfo      Op = "info"      // nothing → Info
	OpPods      Op = "pods"      // nothing → []Pod
	OpServices  Op = "services"  // nothing → []Service
	OpAddresses Op = "addresses" // nothing → []Address
	OpLeases    Op = "leases"    // nothing → []Lease
	OpNICs      Op = "nics"      // nothing → []NIC
	OpDrops     Op = "drops"     // nothing → []Drop
)

// Request is the one line that a client sends.
type Request struct {
	Version int             `json:"version"`
	Op      Op              `json:"op"`
	Body    json.RawMessage `json:"body,omitempty"`
}

// Response is the one line that the server sends back: an error or a body.
type Response struct {
	Error *Error          `json:"error,omitempty"`
	Body  json.RawMessage `json:"body,omitempty"`
}

// Error codes. They are CNI's where CNI has one, so a plugin passes them on as
// they are.
const (
	CodeUnknown     uint = 3   // the object asked about is not there
	CodeInvalid     uint = 7   // the request's content is refused
	CodeTryLater    uint = 11  // not now: the agent is starting, or busy
	CodeUnavailable uint = 50  // the node can't serve new pods
	CodeInternal    uint = 999 // anything else
)

// Error is a refusal by the agent, as it travels.
type Error struct {
	Code    uint   `json:"code"`
	Msg     string `json:"msg"`
	Details string `json:"details,omitempty"`
}

// Error returns message and details.
func (e *Error) Error() string {
	if e.Details == "" {
		return e.Msg
	}
	return e.Msg + ": " + e.Details
}

// Errorf returns an Error of the given code. A handler returns it to choose
// the code that the client sees; any other error travels as CodeInternal.
func Errorf(code uint, format string, args ...any) *Error {
	return &Error{Code: code, Msg: fmt.Sprintf(format, args...)}
}

// ErrUnavailable is matched by the client's errors when no agent answered at
// all: no socket, nobody listening, or no answer within the timeout.
var ErrUnavailable = errors.New("agent unavailable")

// ErrStranger is matched by the client's errors when what answered is no agent.
var ErrStranger = errors.New("the answer is no agent's")

// maxRequest and maxResponse bound one line. The longest request is GC's with
// all of a node's attachments, the longest response the table of all Services.
const (
	maxRequest  = 4 << 20
	maxResponse = 256 << 20
)
