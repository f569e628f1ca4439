// SPDX-License-Identifier: Apache-2.0

package pod

import (
	"context"
	"fmt"
	"time"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/patchbay-net/patchbay/pkg/agentapi"
	"github.com/patchbay-net/patchbay/plugins/cni"
)

// away is how long the agent may be away before STATUS says so: a failing
// STATUS takes the whole node, with its healthy pods, out of every Service.
const away = time.Minute

// statusTimeout bounds the question to the agent.
const statusTimeout = 2 * time.Second

// status is the verb STATUS.
func status(args *cni.Args) error {
	c, err := parse(args, strict)
	if err != nil {
		return err
	}
	source, err := c.addresses(strict)
	if err != nil {
		return err
	}
	if err := c.agentStatus(); err != nil {
		return err
	}
	return source.status()
}

// agentStatus fails if the agent was never ready since the boot, or not for
// longer than it may be away.
func (c *conf) agentStatus() error {
	answer, err := c.agent(statusTimeout).Status(context.Background())
	if err == nil && answer.Ready {
		return nil
	}
	reason := answer.Reason
	if err != nil {
		reason = err.Error()
	}
	since, err := agentapi.LastReady(c.ReadyFile)
	if err != nil {
		return types.NewError(types.ErrPluginNotAvailable, fmt.Sprintf("%v: %s", err, reason), "")
	}
	if since > away {
		return types.NewError(types.ErrPluginNotAvailable, fmt.Sprintf("agent not ready for %s: %s", since.Round(time.Second), reason), "")
	}
	return nil
}
