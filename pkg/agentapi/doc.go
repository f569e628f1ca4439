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
