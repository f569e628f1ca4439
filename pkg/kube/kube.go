// SPDX-License-Identifier: Apache-2.0

// Package kube is the Kubernetes API as Patchbay sees it: a source of objects,
// a writer of our outputs, events, and the election of one controller. Nothing
// else imports client-go.
//
// It needs no kube-proxy to find the API server, and stays small: one REST
// client per API group and a reflector per kind, instead of client-go's set of
// clients for all of Kubernetes. Objects are cut down to what is read of them.
//
//	client, err := kube.New(kube.Options{StateDir: "/var/lib/patchbay", Log: log})
//	…
//	err = client.Run(ctx, kinds, emit)
package kube

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"

	"github.com/patchbay-net/patchbay/pkg/kube/codec"
	"github.com/patchbay-net/patchbay/pkg/source"
)

// Options say how the API is reached. All may be empty but Log.
type Options struct {
	// Kubeconfig is a file with server and credentials; empty: the pod's service
	// account.
	Kubeconfig string
	// ServiceAccountDir is where the service account is mounted; empty: the usual
	// place.
	ServiceAccountDir string
	// APIServers are tried before all others, as URL or host:port.
	APIServers []string
	// KubeletConfigs are kubeconfig files of the kubelet, of which only the
	// server is read; nil: the usual places.
	KubeletConfigs []string
	// StateDir is where the API servers last known are kept; empty: nowhere.
	StateDir string
	// PodsOfNode restricts pods to those of one node.
	PodsOfNode string
	// Component names the program in the server's logs, in events and as the
	// owner of fields.
	Component string
	// Log is required.
	Log *slog.Logger
}

// Client is the Kubernetes API. It implements source.Source and source.Writer.
// Safe for use by several goroutines.
type Client struct {
	opts    Options
	servers *servers
	clients map[schema.GroupVersion]*rest.RESTClient
}

// New returns a client. It talks to nobody yet; an error means that there are
// no credentials or no server to try.
func New(opts Options) (*Client, error) {
	opts.setDefaults()
	config, server, err := credentials(opts)
	if err != nil {
		return nil, err
	}
	list, err := newServers(opts, server)
	if err != nil {
		return nil, err
	}
	config.Host = list.fixedOrLearned()[0]
	config.UserAgent = opts.Component
	config.QPS, config.Burst = 50, 100
	config.DisableCompression = true
	config.Dial = (&net.Dialer{Timeout: 3 * time.Second, KeepAlive: 15 * time.Second}).DialContext
	config.WrapTransport = func(base http.RoundTripper) http.RoundTripper { return list.over(base) }
	clients, err := codec.Clients(config)
	if err != nil {
		return nil, fmt.Errorf("make API client: %w", err)
	}
	return &Client{opts, list, clients}, nil
}

func (o *Options) setDefaults() {
	if o.ServiceAccountDir == "" {
		o.ServiceAccountDir = "/var/run/secrets/kubernetes.io/serviceaccount"
	}
	if o.KubeletConfigs == nil {
		o.KubeletConfigs = []string{"/etc/kubernetes/kubelet.conf", "/var/lib/kubelet/kubeconfig"}
	}
	if o.Component == "" {
		o.Component = "patchbay"
	}
}

// clientFor returns the type of a kind and the client of its group.
func (c *Client) clientFor(kind source.Kind) (source.Type, *rest.RESTClient, error) {
	t, err := source.TypeOf(kind)
	if err != nil {
		return source.Type{}, nil, err
	}
	client := c.clients[t.Version]
	if client == nil {
		return source.Type{}, nil, fmt.Errorf("kind %s: no client for %s", kind, t.Version)
	}
	return t, client, nil
}

var errNoCredentials = errors.New("no kubeconfig was given, and there is no service account")
